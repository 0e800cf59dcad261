"""Batches as arrays: types that follow from the column alone, writable on the batch's own memory, refusals by name."""

import gc
from datetime import UTC, datetime, time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import make_dataset, publish

from foreshard.errors import ConfigError
from foreshard.loader.batch import Batch
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import UniformOrder

NUMBERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
PAIR = pa.list_(pa.float32(), 2)


def batch_of(array):
    rows = pa.RecordBatch.from_arrays([array], names=["x"])
    return Batch(1, 0, np.arange(len(array)), np.arange(len(array), dtype=np.int32), rows)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_become_writable_arrays_on_the_same_memory(name):
    kind = pa.from_numpy_dtype(np.dtype(name))
    array = pa.array(np.arange(6), pa.int64()).cast(kind)[1:]
    found = batch_of(array)["x"]
    assert (found.dtype, found.tolist()) == (np.dtype(name), [1, 2, 3, 4, 5])
    found[0] = 9
    assert array.to_pylist() == [9, 2, 3, 4, 5]


def test_an_array_keeps_its_memory_when_the_batch_is_gone():
    found = batch_of(pa.array(np.arange(100_000)))["x"]
    gc.collect()
    other = [np.full(100_000, 7) for _ in range(10)]
    assert int(found.sum()) == 100_000 * 99_999 // 2
    assert len(other) == 10


def test_memory_that_is_not_to_be_written_is_copied():
    raw = np.arange(4, dtype=np.int64).tobytes()
    array = pa.Array.from_buffers(pa.int64(), 4, [None, pa.py_buffer(raw)])
    batch_of(array)["x"][:] = 9
    assert array.to_pylist() == [0, 1, 2, 3]


STAMP = datetime(2013, 1, 1, tzinfo=UTC)
CASES = [
    (pa.float32(), [1.5, 2.0], "float32", True),
    (pa.float16(), [1.5, 2.0], "float16", True),
    (pa.timestamp("us"), [STAMP, STAMP], "M8[us]", True),
    (pa.timestamp("s", "UTC"), [STAMP, STAMP], "M8[s]", True),
    (pa.duration("ms"), [1, 2], "m8[ms]", True),
    (pa.date32(), [1, 2], "M8[D]", True),
    (pa.date64(), [86_400_000, 0], "M8[ms]", True),
    (pa.time32("s"), [time(1), time(2)], "object", True),
    (pa.string(), ["a", "b"], "object", True),
    (pa.large_binary(), [b"a", b"b"], "object", True),
    (pa.list_(pa.int8()), [[1], [2, 3]], "object", True),
    (PAIR, [[1, 2], [3, 4]], "float32", False),
    (pa.dictionary(pa.int8(), pa.string()), ["a", "b"], "object", True),
    (pa.null(), [None, None], "object", True),
]


@pytest.mark.parametrize(("kind", "values", "dtype", "holds_nulls"), CASES, ids=str)
def test_the_dtype_is_the_same_for_any_values_and_every_array_may_be_written(kind, values, dtype, holds_nulls):
    plain = pa.array(values, kind)
    for array in (plain, plain[:0], plain[1:], pa.concat_arrays([plain, plain])[1:]):
        found = batch_of(array)["x"]
        assert (found.dtype, len(found), found.flags.writeable) == (np.dtype(dtype), len(array), True)
    for missing in ([None, values[0]], [None, None]):
        array = pa.array(missing, kind)
        if holds_nulls:
            found = batch_of(array)["x"]
            assert (found.dtype, len(found), found.flags.writeable) == (np.dtype(dtype), 2, True)
        else:
            with pytest.raises(ConfigError, match=r"column 'x' .* has [12] nulls .* read batch.rows.column\('x'\)"):
                batch_of(array)["x"]


@given(
    st.sampled_from(("i1", "i8", "u2", "u8")),
    st.lists(st.integers(0, 100) | st.none(), max_size=20),
    st.integers(0, 3),
    st.booleans(),
)
def test_integers_keep_their_type_without_nulls_and_are_floats_with_nan_with_them(name, values, start, coded):
    kind = pa.from_numpy_dtype(np.dtype(name))
    array = pa.array(values, kind)
    found = batch_of(array.dictionary_encode()[start:] if coded else array[start:])["x"]
    values = values[start:]
    if None in values:
        expected = np.array([np.nan if value is None else value for value in values])
    else:
        expected = np.array(values, name)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected, equal_nan=None in values)
    assert found.flags.writeable


@pytest.mark.parametrize(("kind", "value"), [("i8", 2**53 + 1), ("i8", -(2**63)), ("u8", 2**64 - 1)])
def test_integers_that_floats_do_not_hold_are_refused_beside_nulls(kind, value):
    array = pa.array([value, None], pa.from_numpy_dtype(np.dtype(kind)))
    assert batch_of(array[:1])["x"].tolist() == [value]
    with pytest.raises(ConfigError, match=r"column 'x' .* has 1 nulls .* above 2\*\*53 .* batch.rows.column\('x'\)"):
        batch_of(array)["x"]
    fine = pa.array([2**53, None], array.type)
    assert batch_of(fine)["x"][0] == 2**53


def test_booleans_with_a_null_are_python_objects():
    assert batch_of(pa.array([True, False]))["x"].dtype == np.bool_
    assert batch_of(pa.array([True, None]))["x"].tolist() == [True, None]


@given(st.lists(st.floats(width=32, allow_nan=False) | st.none(), max_size=20), st.integers(0, 3))
def test_floats_keep_their_values_and_nulls_are_nan(values, start):
    found = batch_of(pa.array(values, pa.float32())[start:])["x"]
    expected = np.array([np.nan if value is None else value for value in values[start:]], np.float32)
    assert np.array_equal(found, expected, equal_nan=True)


def test_lists_of_a_fixed_size_have_a_dimension_more():
    assert batch_of(pa.array([[0, 0], [1, 2], [3, 4]], PAIR)[1:])["x"].tolist() == [[1, 2], [3, 4]]
    nested = pa.array([[[1, 2], [3, 4]]], pa.list_(pa.list_(pa.int8(), 2), 2))
    assert batch_of(nested)["x"].shape == (1, 2, 2)
    with pytest.raises(ConfigError, match="has 1 nulls in a batch"):
        batch_of(pa.array([[1, 2], None], pa.list_(pa.int8(), 2)))["x"]


def test_a_column_that_is_not_there_is_refused_naming_those_that_are():
    batch = batch_of(pa.array([1]))
    with pytest.raises(ConfigError, match="there is no column 'y' in the batch; it has x: name one of these"):
        batch["y"]
    with pytest.raises(KeyError):  # as of a dict
        batch["y"]


def test_what_a_loop_writes_into_one_batch_is_in_no_other(tmp_path):
    dataset = make_dataset(tmp_path, 200)
    publish(dataset, 0, seed=1)
    loader = Loader(dataset.repository, UniformOrder(dataset.train_ids, 1), LoaderOptions(8))
    for _ in range(3):
        for batch in loader:
            assert (batch["value"] == 10 * batch.sample_ids).all()
            batch["value"][:] = -1
    loader.close()
