"""Batches as tensors: types that follow from the column alone, shared memory, and refusals by name."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
import torch  # noqa: TID253

from foreshard.errors import ConfigError
from foreshard.loader.batch import Batch
from foreshard.loader.torch import to_tensors


def batch_of(array):
    rows = pa.RecordBatch.from_arrays([array], names=["x"])
    return Batch(1, 0, np.arange(len(array)), np.arange(len(array), dtype=np.int32), rows)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (pa.int8(), torch.int8),
        (pa.int16(), torch.int16),
        (pa.int32(), torch.int32),
        (pa.int64(), torch.int64),
        (pa.uint8(), torch.uint8),
        (pa.uint16(), torch.uint16),
        (pa.float16(), torch.float16),
        (pa.float32(), torch.float32),
        (pa.float64(), torch.float64),
    ],
)
def test_numbers_become_writable_tensors_on_the_same_memory(kind, dtype):
    array = pa.array(np.arange(6), pa.int64()).cast(kind)[1:]
    tensor = to_tensors(batch_of(array))["x"]
    assert (tensor.dtype, tensor.tolist()) == (dtype, [1, 2, 3, 4, 5])
    assert tensor.data_ptr() == array.buffers()[1].address + array.type.bit_width // 8
    tensor[0] = 9
    assert array.to_pylist() == [9, 2, 3, 4, 5]


def test_a_tensor_keeps_its_memory_when_the_batch_is_gone():
    tensor = to_tensors(batch_of(pa.array(np.arange(100_000))))["x"]
    other = [np.full(100_000, 7) for _ in range(10)]
    assert int(tensor.sum()) == 100_000 * 99_999 // 2
    assert len(other) == 10


@pytest.mark.parametrize(
    ("array", "dtype", "values"),
    [
        (pa.array([True, False, True]), torch.bool, [True, False, True]),
        (pa.array([datetime(2013, 1, 1, tzinfo=UTC)], pa.timestamp("s", "UTC")), torch.int64, [1356998400]),
        (pa.array([3], pa.date32()), torch.int32, [3]),
        (pa.array([5], pa.duration("ms")), torch.int64, [5]),
        (pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)), torch.float32, [[1, 2], [3, 4]]),
        (pa.array([9, 9, 8]).dictionary_encode(), torch.int64, [9, 9, 8]),
        (pa.array([], pa.int16()), torch.int16, []),
    ],
)
def test_other_types_become_tensors_in_their_own_unit_and_shape(array, dtype, values):
    tensor = to_tensors(batch_of(array))["x"]
    assert (tensor.dtype, tensor.tolist()) == (dtype, values)


def test_a_float_that_is_null_is_nan_and_keeps_its_type():
    tensor = to_tensors(batch_of(pa.array([1.5, None], pa.float32())))["x"]
    assert tensor.dtype == torch.float32
    assert tensor[0] == 1.5
    assert torch.isnan(tensor[1])


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (pa.array(["a", None, "ü"]), ["a", None, "ü"]),
        (pa.array([b"\x00", b"xy"]), [b"\x00", b"xy"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array([b"ab", b"cd"], pa.binary(2)), [b"ab", b"cd"]),
        (pa.array(["JFK", "LGA", "JFK"]).dictionary_encode(), ["JFK", "LGA", "JFK"]),
    ],
)
def test_texts_and_bytes_become_lists(array, values):
    assert to_tensors(batch_of(array))["x"] == values


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pa.array([1, None, None]), r"column 'x' \(int64\) has 2 nulls in a batch, .* transform that fills them"),
        (pa.array([True, None]), "has 1 nulls"),
        (pa.array([[1], [2, 3]]), "column 'x' has the type list.* no tensor; give a transform"),
        (pa.array([{"a": 1}]), "column 'x' has the type struct"),
    ],
)
def test_what_no_tensor_can_hold_is_refused_by_name(array, message):
    with pytest.raises(ConfigError, match=message):
        to_tensors(batch_of(array))
