"""A chunk decodes from its byte range alone, without copying, with every value as it was."""

import decimal
import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.errors import CorruptDataError, SourceError
from foreshard.shards.codec import SAMPLE_ID, checksum, decode_chunk, encode_shard, shard_schema

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


def test_dictionaries_and_views_become_plain_types_also_inside_nested_columns():
    coded = pa.dictionary(pa.int32(), pa.string())
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
    plain = shard_schema(source)
    text = pa.string()
    assert plain.names[-1] == SAMPLE_ID
    assert plain.field("a") == pa.field("a", text, nullable=False)
    assert plain.field("b").type == pa.list_(text)
    assert plain.field("c").type == pa.struct([("d", text), ("e", text)])
    assert plain.field("f").type == pa.map_(text, text)
    assert plain.field("g").type == pa.list_(text, 3)
    assert plain.field("h").type == pa.large_list(pa.binary())


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
