"""Chunks taken value by value out of pieces are, byte for byte, those that Arrow takes out of one piece."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tables import tables

from foreshard.errors import SourceError
from foreshard.shards import pieces as module
from foreshard.shards.codec import encode_shard
from foreshard.shards.pieces import Pieces

KINDS = (pa.string(), pa.binary(), pa.large_string(), pa.large_binary())


def in_pieces(table: pa.Table, cuts: list[int]) -> pa.Table:
    edges = [0, *sorted(cut % (table.num_rows + 1) for cut in cuts), table.num_rows]
    return pa.concat_tables([table.slice(a, b - a) for a, b in pairwise(edges)])


@settings(max_examples=60)
@given(
    st.sampled_from(KINDS),
    st.lists(st.one_of(st.none(), st.text(max_size=5)), min_size=1, max_size=40),
    st.lists(st.integers(0, 100), max_size=4),
    st.randoms(use_true_random=False),
)
def test_wide_values_give_the_bytes_of_one_take(kind, values, cuts, random):
    table = pa.table({"x": pa.array(values, pa.string()).cast(kind), "n": np.arange(len(values))})
    positions = np.array([random.randrange(len(values)) for _ in range(12)])
    expected = table.combine_chunks().to_batches()[0].take(positions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WIDE", 0)
        found = Pieces(in_pieces(table, cuts)).take(positions)
    assert found.equals(expected)
    found.validate(full=True)
    assert encode_shard([found])[0] == encode_shard([expected])[0]


@settings(max_examples=40)
@given(st.data())
def test_columns_of_every_kind_come_out_of_pieces_as_out_of_one(data):
    table = data.draw(tables())
    if not table.num_rows:
        return
    positions = np.array(data.draw(st.lists(st.integers(0, table.num_rows - 1), min_size=1, max_size=10)))
    rows = in_pieces(table, data.draw(st.lists(st.integers(0, 100), max_size=3)))
    expected = table.combine_chunks().to_batches()[0].take(positions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WIDE", data.draw(st.sampled_from([0, 8192])))
        assert Pieces(rows).take(positions).equals(expected)


def test_what_lies_under_a_null_is_not_taken_along():
    secret = pa.Array.from_buffers(
        pa.binary(),
        2,
        [pa.py_buffer(b"\x02"), pa.py_buffer(np.array([0, 6, 9], np.int32).tobytes()), pa.py_buffer(b"secretyes")],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WIDE", 0)
        batch = Pieces(pa.table({"x": secret})).take(np.array([0, 1, 0]))
    assert batch["x"].to_pylist() == [None, b"yes", None]
    assert b"secret" not in encode_shard([batch])[0].to_pybytes()


def test_a_chunk_beyond_its_offsets_is_refused(monkeypatch):
    monkeypatch.setattr(module, "WIDE", 0)
    monkeypatch.setitem(module._OFFSETS, pa.binary(), np.int8)
    column = module._WideColumn.__new__(module._WideColumn)
    column._type, column._dtype, column._valid = pa.binary(), np.int8, None
    column._length = np.array([100, 100])
    with pytest.raises(SourceError, match="a chunk holds 200 bytes of binary; lower"):
        column.take(np.array([0, 1]))
