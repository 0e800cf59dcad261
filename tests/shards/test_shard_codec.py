"""A chunk decodes from its byte range alone, without copying, with every value as it was."""

import decimal
import hashlib
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tables import cuts
from random_tables import tables as random_tables
from shardkit import take_chunks

from foreshard.errors import ConfigError, CorruptDataError, SourceError
from foreshard.shards.codec import (
    SAMPLE_ID,
    checksum,
    decode_chunk,
    encode_shard,
    logical_schema,
    shard_schema,
)
from foreshard.shards.dictionaries import Dictionaries

COLUMNS = {
    "text": st.text(max_size=5),
    "large": st.text(max_size=3),
    "raw": st.binary(max_size=4),
    "flag": st.booleans(),
    "whole": st.integers(-(2**63), 2**63 - 1),
    "real": st.floats(allow_nan=False),
    "price": st.decimals(min_value=-999, max_value=999, places=2, allow_nan=False),
    "when": st.integers(-(10**15), 10**15),
    "items": st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=3),
    "pair": st.tuples(st.integers(0, 9), st.integers(0, 9)).map(list),
    "nested": st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.lists(st.text(max_size=2), max_size=2)}),
    "nothing": st.none(),
}
SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("large", pa.large_string()),
        ("raw", pa.binary()),
        ("flag", pa.bool_()),
        ("whole", pa.int64()),
        ("real", pa.float64()),
        ("price", pa.decimal128(7, 2)),
        ("when", pa.timestamp("us", "UTC")),
        ("items", pa.list_(pa.int8())),
        ("pair", pa.list_(pa.int32(), 2)),
        ("nested", pa.struct([("a", pa.int16()), ("b", pa.list_(pa.string()))])),
        ("nothing", pa.null()),
    ]
)


@st.composite
def tables(draw) -> pa.Table:
    rows = draw(st.integers(1, 30))
    columns = {}
    for name, values in COLUMNS.items():
        columns[name] = draw(st.lists(st.one_of(st.none(), values), min_size=rows, max_size=rows))
    return pa.table(columns, schema=SCHEMA)


def take(table: pa.Table, rows) -> pa.RecordBatch:
    return table.take(pa.array(rows, pa.int64())).combine_chunks().to_batches()[0]


@settings(max_examples=25, deadline=None)
@given(tables(), st.integers(1, 4))
def test_chunks_decode_from_their_range_alone_with_every_value_unchanged(table, parts):
    batches = [take(table, piece) for piece in np.array_split(np.arange(table.num_rows), parts) if len(piece)]
    raw, ranges = encode_shard(batches)
    for batch, (start, end) in zip(batches, ranges, strict=True):
        alone = bytes(memoryview(raw)[start:end])
        decoded = decode_chunk(alone, batch.schema)
        decoded.validate(full=True)
        assert decoded.equals(batch)


@settings(max_examples=25, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_bytes_follow_from_the_values_not_from_where_the_rows_lay(table, random):
    """Null slots, offsets and neighbours of the table that rows are taken from leave no trace in the shard."""
    shuffled = list(range(table.num_rows))
    random.shuffle(shuffled)
    wanted = shuffled[: max(1, len(shuffled) // 2)]
    direct = take(table, wanted)
    moved = pa.concat_tables([table.slice(3), table, table.slice(0, 5)])
    again = take(moved, [max(0, table.num_rows - 3) + row for row in wanted])
    rebuilt = pa.RecordBatch.from_pylist(direct.to_pylist(), schema=table.schema)
    rebuilt = take(pa.Table.from_batches([rebuilt]), range(len(wanted)))
    assert encode_shard([direct])[0] == encode_shard([again])[0] == encode_shard([rebuilt])[0]


def test_a_shard_is_an_arrow_file_whose_batches_are_the_chunks():
    batches = [pa.record_batch({"x": pa.array([1, 2])}), pa.record_batch({"x": pa.array([3])})]
    raw, ranges = encode_shard(batches)
    file = pa.ipc.open_file(pa.BufferReader(raw))
    assert [file.get_batch(i).to_pydict() for i in range(file.num_record_batches)] == [{"x": [1, 2]}, {"x": [3]}]
    assert ranges[0][1] == ranges[1][0]
    assert all(start % 8 == 0 for start, _ in ranges)


def test_decoding_does_not_copy():
    raw, [(start, end)] = encode_shard([pa.record_batch({"x": pa.array(np.arange(1000))})])
    chunk = raw.slice(start, end - start)
    values = decode_chunk(chunk, pa.schema([("x", pa.int64())])).column("x").buffers()[1]
    assert values is not None
    assert chunk.address <= values.address < chunk.address + chunk.size


def _physical(table):
    return Dictionaries.from_tables(table.schema, [table]).encode(table)


def _buffers(array):
    return [buffer for buffer in array.buffers() if buffer is not None and buffer.size]


@settings(max_examples=60, deadline=None)
@given(random_tables(), st.data())
def test_chunks_of_random_tables_decode_without_copying_and_follow_from_their_values_alone(table, data):
    rows = _physical(table)
    offsets = data.draw(cuts(rows.num_rows))
    positions = np.array(data.draw(st.permutations(range(rows.num_rows))), np.int64)
    raw, ranges = encode_shard(take_chunks(rows, positions, offsets))
    # The same values, in other places of a larger table that is in several pieces.
    moved = pa.concat_tables([rows.slice(rows.num_rows // 2), rows])
    shift = rows.num_rows - rows.num_rows // 2
    assert encode_shard(take_chunks(moved, positions + shift, offsets))[0] == raw
    # The same values, each chunk made by itself.
    alone = [take(rows, positions[start:stop]) for start, stop in pairwise(offsets)]
    assert encode_shard(alone)[0] == raw
    for start, end in ranges:
        chunk = raw.slice(start, end - start)
        for column in decode_chunk(chunk, rows.schema).columns:
            assert all(chunk.address <= b.address < chunk.address + chunk.size for b in _buffers(column))


@settings(max_examples=5, deadline=None)
@given(random_tables(most=4, width=2), st.integers(0, 7))
def test_the_checksum_notices_a_flipped_bit_in_every_byte_of_a_chunk(table, bit):
    raw, [(start, end)] = encode_shard(take_chunks(_physical(table), np.arange(1), np.array([0, 1])))
    chunk = np.frombuffer(raw, np.uint8)[start:end].copy()
    whole = checksum(chunk.tobytes())
    for at in range(len(chunk)):
        chunk[at] ^= 1 << bit
        assert checksum(chunk.tobytes()) != whole
        chunk[at] ^= 1 << bit


def test_chunks_without_rows_and_rows_without_chunks_are_taken():
    rows = pa.table({"x": pa.array([1, 2]), "s": pa.array(["a", None])})
    empty, both = take_chunks(rows, np.array([1, 0]), np.array([0, 0, 2]))
    assert (empty.num_rows, both.to_pylist()) == (0, [{"x": 2, "s": None}, {"x": 1, "s": "a"}])
    assert take_chunks(rows.slice(0, 0), np.array([], np.int64), np.array([0, 0])) == [empty]
    assert take_chunks(rows.to_batches()[0], np.array([1, 0]), np.array([0, 2])) == [both]


# -- compression ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@settings(max_examples=20, deadline=None)
@given(table=random_tables(), data=st.data())
def test_compressed_chunks_hold_the_same_values_in_reproducible_bytes(compression, table, data):
    rows = _physical(table)
    batches = take_chunks(rows, np.arange(rows.num_rows), data.draw(cuts(rows.num_rows)))
    raw, ranges = encode_shard(batches, compression)
    assert encode_shard(batches, compression) == (raw, ranges)
    for batch, (start, end) in zip(batches, ranges, strict=True):
        assert start % 8 == 0
        decoded = decode_chunk(bytes(memoryview(raw)[start:end]), rows.schema)
        decoded.validate(full=True)
        assert decoded.equals(batch) or repr(decoded.to_pylist()) == repr(batch.to_pylist())


def test_compression_shrinks_what_repeats_and_bears_what_is_random_or_empty():
    noise = np.random.default_rng(0).integers(0, 256, 80_000, dtype=np.uint8).view(np.int64)
    batches = [pa.record_batch({"x": pa.array(values)}) for values in (np.zeros(10_000, np.int64), noise, noise[:0])]
    plain = encode_shard(batches)[1]
    for compression in ("lz4", "zstd"):
        raw, ranges = encode_shard(batches, compression)
        sizes = [(end - start, before[1] - before[0]) for (start, end), before in zip(ranges, plain, strict=True)]
        assert sizes[0][0] < sizes[0][1] / 50
        assert sizes[1][0] < sizes[1][1] * 1.01 + 64
        for batch, (start, end) in zip(batches, ranges, strict=True):
            assert decode_chunk(raw.slice(start, end - start), batch.schema).equals(batch)


def test_an_unknown_compression_is_refused():
    with pytest.raises(ConfigError, match="compression 'gzip' is unknown; use one of none, lz4, zstd"):
        encode_shard([pa.record_batch({"x": [1]})], "gzip")


@pytest.mark.parametrize("columns", [1, 400])
@pytest.mark.parametrize("chunks", [1, 500])
def test_shards_of_any_shape_fit_the_memory_reserved_for_them(columns, chunks):
    """Wide schemas with long names and metadata, and many chunks, make the footer large."""
    fields = [pa.field(f"{i}-{'n' * 50}", pa.int8(), metadata={"k": "v" * 40}) for i in range(columns)]
    schema = pa.schema(fields, metadata={"about": "x" * 3000})
    batch = pa.RecordBatch.from_arrays([pa.array([1], pa.int8())] * columns, schema=schema)
    raw, ranges = encode_shard([batch] * chunks)
    assert pa.ipc.open_file(raw).num_record_batches == chunks == len(ranges)


@pytest.mark.parametrize("damage", ["empty", "cut", "tail", "noise"])
def test_bytes_that_are_no_chunk_are_refused(damage):
    raw, [(start, end)] = encode_shard([pa.record_batch({"x": pa.array(np.arange(50))})])
    chunk = bytes(memoryview(raw)[start:end])
    broken = {"empty": b"", "cut": chunk[:40], "tail": chunk[:-16], "noise": b"\xff" * len(chunk)}[damage]
    with pytest.raises(CorruptDataError, match=f"{len(broken)} bytes are not a chunk"):
        decode_chunk(broken, pa.schema([("x", pa.int64())]))


def test_checksum_is_xxh3_64():
    assert checksum(b"") == 0x2D06800538D394C2
    assert checksum(memoryview(b"foreshard")) == checksum(pa.py_buffer(b"foreshard"))
    assert checksum(b"foreshard") != checksum(b"foreshare")


def test_dictionaries_become_indices_and_views_offset_based_also_inside_nested_columns():
    coded = pa.dictionary(pa.int16(), pa.string(), ordered=True)
    source = pa.schema(
        [
            pa.field("a", coded, nullable=False),
            ("b", pa.list_(coded)),
            ("c", pa.struct([("d", coded), ("e", pa.string_view())])),
            ("f", pa.map_(pa.string(), coded)),
            ("g", pa.list_(coded, 3)),
            ("h", pa.large_list(pa.binary_view())),
        ]
    )
    for found, leaf in ((shard_schema(source), pa.int16()), (logical_schema(source), coded)):
        assert found.names[-1] == SAMPLE_ID
        assert found.field("a") == pa.field("a", leaf, nullable=False)
        assert found.field("b").type == pa.list_(leaf)
        assert found.field("c").type == pa.struct([("d", leaf), ("e", pa.string())])
        assert found.field("f").type == pa.map_(pa.string(), leaf)
        assert found.field("g").type == pa.list_(leaf, 3)
        assert found.field("h").type == pa.large_list(pa.binary())


def test_a_source_column_named_sample_id_is_refused():
    with pytest.raises(SourceError, match=r"'sample_id' clashes.*rename it"):
        shard_schema(pa.schema([("sample_id", pa.int64())]))


def test_golden_bytes_of_a_shard():
    """The digest of a small shard with most types in it; it changes only if the format does."""
    batch = pa.RecordBatch.from_pylist(
        [
            {"n": 1, "s": "eins", "l": [1, None], "d": decimal.Decimal("1.50"), "b": True},
            {"n": None, "s": None, "l": None, "d": None, "b": None},
        ],
        schema=pa.schema(
            [
                ("n", pa.int32()),
                ("s", pa.string()),
                ("l", pa.list_(pa.int64())),
                ("d", pa.decimal128(5, 2)),
                ("b", pa.bool_()),
            ]
        ),
    )
    raw, ranges = encode_shard([batch, batch])
    assert ranges == [(368, 920), (920, 1472)]
    assert hashlib.sha256(raw).hexdigest() == "0895df8423c787dd5ef30fd7bb178072f37ecde6f9a1c92477b1341cb1356fec"
