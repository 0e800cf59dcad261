"""Dictionary columns survive: their values, order, unused categories and index type, also inside nested columns."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tables import cuts, tables
from shardkit import take_chunks

from foreshard.errors import CorruptDataError, SourceError
from foreshard.shards.codec import decode_chunk, encode_shard, logical_schema, shard_schema
from foreshard.shards.dictionaries import Dictionaries
from foreshard.shards.schema import SAMPLE_ID


def coded(values, dictionary, index=None, kind=None, *, ordered=False):
    """Return a dictionary array of the values' positions in a dictionary."""
    places = [None if value is None else dictionary.index(value) for value in values]
    return pa.DictionaryArray.from_arrays(
        pa.array(places, index or pa.int8()), pa.array(dictionary, kind), ordered=ordered
    )


def one(array):
    return pa.table({"c": array})


def gather(*arrays):
    return Dictionaries.from_tables(one(arrays[0]).schema, [one(array) for array in arrays])


# -- survival ------------------------------------------------------------------------------------------
@settings(max_examples=80, deadline=None)
@given(tables(), st.data())
def test_every_value_and_type_survives_chunks_of_random_tables(table, data):
    dictionaries = Dictionaries.from_tables(table.schema, [table])
    offsets = data.draw(cuts(table.num_rows))
    positions = np.array(data.draw(st.permutations(range(table.num_rows))), np.int64)
    ids = pa.field(SAMPLE_ID, pa.int64(), nullable=False)
    rows = dictionaries.encode(table).append_column(ids, pa.array(np.arange(table.num_rows)))
    physical = shard_schema(table.schema)
    assert rows.schema == physical
    raw, ranges = encode_shard(take_chunks(rows, positions, offsets))
    dictionaries = Dictionaries.from_bytes(dictionaries.to_bytes())
    for chunk, (start, end) in enumerate(ranges):
        batch = decode_chunk(raw.slice(start, end - start), physical, dictionaries)
        batch.validate(full=True)
        assert batch.schema == logical_schema(table.schema)
        wanted = table.take(positions[offsets[chunk] : offsets[chunk + 1]]).combine_chunks()
        # Compared as text, as NaN equals nothing; the schema above holds the types.
        assert repr(batch.drop_columns([SAMPLE_ID]).to_pylist()) == repr(wanted.to_pylist())


@settings(max_examples=60, deadline=None)
@given(tables(least=3), st.data())
def test_slices_encode_as_what_they_show(table, data):
    start = data.draw(st.integers(0, table.num_rows - 1))
    part = table.slice(start, data.draw(st.integers(1, table.num_rows - start)))
    dictionaries = Dictionaries.from_tables(table.schema, [table])
    rows = dictionaries.encode(part)
    rows.validate(full=True)
    decoded = [dictionaries.decode(batch) for batch in rows.to_batches()]
    assert repr(pa.Table.from_batches(decoded).to_pylist()) == repr(part.to_pylist())
    assert decoded[0].schema == table.schema


def test_a_dictionary_that_is_the_same_everywhere_stays_as_it_is_with_unused_and_repeated_values():
    arrays = [
        pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), ["z", "unused", None, "a", "z"], ordered=True)
        for codes in ([0, 3], [4, None], [2])
    ]
    dictionaries = gather(*arrays)
    assert dictionaries.values["c"].to_pylist() == ["z", "unused", None, "a", "z"]
    for array in arrays:
        rows = dictionaries.encode(one(array))
        assert rows["c"].to_pylist() == array.indices.to_pylist()
        assert dictionaries.decode(rows.to_batches()[0]).column("c").equals(array)


def test_values_of_different_dictionaries_come_in_order_of_first_appearance_and_codes_agree():
    arrays = [coded(["b", "a"], ["b", "a"]), coded(["a", "c", None], ["c", "d", "a"]), coded(["b"], ["b"])]
    dictionaries = gather(*arrays)
    assert dictionaries.values["c"].to_pylist() == ["b", "a", "c", "d"]
    found = [dictionaries.encode(one(array))["c"] for array in arrays]
    assert [column.to_pylist() for column in found] == [[0, 1], [1, 2, None], [0]]
    assert {column.type for column in found} == {pa.int8()}
    mixed = pa.table({"c": pa.chunked_array(arrays)})
    assert dictionaries.encode(mixed)["c"].to_pylist() == [0, 1, 1, 2, None, 0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), unique=True), min_size=1, max_size=8))
def test_however_much_is_merged_at_a_time_values_appear_in_the_same_order(parts):
    expected = list(dict.fromkeys(value for part in parts for value in part))
    arrays = [coded(part, part, kind=pa.int64()) for part in parts]
    for pending in (1, 5, 1 << 16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("foreshard.shards.unify._PENDING", pending)
            assert gather(*arrays).values["c"].to_pylist() == expected


def test_zero_keeps_its_sign_and_null_and_nan_are_values():
    first, second = coded([0.0, -0.0], [0.0, -0.0, None]), coded([1.0], [float("nan"), 1.0, None, -0.0])
    dictionaries = gather(first, second)
    assert repr(dictionaries.values["c"].to_pylist()) == "[0.0, -0.0, None, nan, 1.0]"
    flipped = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int8()), [-0.0])
    assert dictionaries.encode(one(flipped))["c"].to_pylist() == [1, 1]


def test_dictionaries_inside_lists_structs_and_maps_have_one_each():
    text = coded(["a", "b", None, "a"], ["b", "a"])
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 4], pa.int32()), text)
    structs = pa.StructArray.from_arrays([text.slice(2), pa.array([1, 2])], names=["x", "y"])
    maps = pa.MapArray.from_arrays(pa.array([0, 2, 4], pa.int32()), pa.array(list("wxyz")), text)
    table = pa.table({"l": lists, "s": structs, "m": maps, "plain": pa.array([1, 2])})
    dictionaries = Dictionaries.from_tables(table.schema, [table])
    assert {path: values.to_pylist() for path, values in dictionaries.values.items()} == {
        f"l.{lists.type.value_field.name}": ["b", "a"],
        "s.x": ["b", "a"],
        "m.value": ["b", "a"],
    }
    rows = dictionaries.encode(table)
    assert rows["l"].to_pylist() == [[1], [0, None, 1]]
    assert rows["m"].to_pylist() == [[("w", 1), ("x", 0)], [("y", None), ("z", 1)]]
    assert dictionaries.decode(rows.to_batches()[0]).equals(table.to_batches()[0])


def test_views_and_dictionaries_of_views_become_offset_based():
    views = pa.array(["a", "bb"], pa.string_view())
    table = pa.table(
        {
            "v": views,
            "d": pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int8()), views),
            "s": pa.StructArray.from_arrays([views, coded(["x", "y"], ["y", "x"])], names=["v", "d"]),
        }
    )
    dictionaries = Dictionaries.from_tables(table.schema, [table])
    decoded = dictionaries.decode(dictionaries.encode(table).to_batches()[0])
    assert decoded.to_pylist() == table.to_pylist()
    assert decoded.schema == logical_schema(table.schema).remove(3)
    assert decoded.schema.field("d").type == pa.dictionary(pa.int8(), pa.string())


@pytest.mark.parametrize("ordered", [False, True])
def test_parquet_row_groups_give_the_dictionary_back(ordered):
    sink = io.BytesIO()
    array = coded(["z", "b", "z", "a", None, "b"] * 50, ["z", "b", "unused", "a"], ordered=ordered)
    nested = pa.ListArray.from_arrays(pa.array(range(301), pa.int32()), array)
    table = pa.table({"c": array, "n": nested})
    pq.write_table(table, sink, row_group_size=70)
    file = pq.ParquetFile(sink)
    groups = [file.read_row_group(i) for i in range(file.num_row_groups)]
    dictionaries = Dictionaries.from_tables(file.schema_arrow, groups)
    assert dictionaries.values["c"].to_pylist() == ["z", "b", "unused", "a"]
    parts = [dictionaries.decode(batch) for group in groups for batch in dictionaries.encode(group).to_batches()]
    found = pa.Table.from_batches(parts)
    assert found.to_pylist() == table.to_pylist()
    assert found.schema.field("c").type == array.type


# -- cost ----------------------------------------------------------------------------------------------
def test_a_schema_without_dictionaries_reads_no_table_and_decodes_to_the_batch_itself():
    table = pa.table({"a": [1], "b": ["x"]})

    def unread():
        pytest.fail("a table was read")
        yield

    for dictionaries in (Dictionaries.from_tables(table.schema, unread()), Dictionaries.none(table.schema)):
        assert not dictionaries
        batch = table.to_batches()[0]
        assert dictionaries.decode(batch) is batch
        assert not Dictionaries.from_bytes(dictionaries.to_bytes())


def test_decoding_and_encoding_copy_no_index():
    array = coded(["a", None, "b"] * 100, ["a", "b"])
    lists = pa.ListArray.from_arrays(pa.array([0, 100, 300], pa.int32()), array)
    table = pa.table({"d": array.slice(0, 2), "l": lists})
    dictionaries = Dictionaries.from_tables(table.schema, [table])
    rows = dictionaries.encode(table)
    batch = dictionaries.decode(rows.to_batches()[0])
    for source, physical, logical in (
        (array.indices, rows["d"].chunk(0), batch.column("d").indices),
        (array.indices, rows["l"].chunk(0).values, batch.column("l").values.indices),
    ):
        addresses = [[b.address for b in each.buffers()] for each in (source, physical, logical)]
        assert addresses[0] == addresses[1] == addresses[2]


def test_a_selection_of_columns_decodes():
    table = pa.table({"a": coded(["x"], ["x"]), "b": [1], "c": coded(["y"], ["z", "y"])})
    dictionaries = Dictionaries.from_tables(table.schema, [table])
    batch = dictionaries.encode(table).to_batches()[0]
    assert dictionaries.decode(batch.select(["c", "b"])).to_pylist() == [{"c": "y", "b": 1}]
    assert dictionaries.decode(batch.select(["b"])).to_pylist() == [{"b": 1}]
    assert dictionaries.decode(batch).schema == table.schema


# -- bytes ---------------------------------------------------------------------------------------------
def test_bytes_follow_from_the_values_alone():
    hidden = pa.array(["secret", "b", "c"]).slice(1)
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), hidden)
    first, second = gather(array), gather(coded(["b", "c"], ["b", "c"]))
    assert first.to_bytes() == second.to_bytes()
    assert b"secret" not in first.to_bytes()
    assert gather(coded(["b"], ["c", "b"])).to_bytes() != first.to_bytes()


@pytest.mark.parametrize("damage", ["empty", "noise", "cut", "other"])
def test_bytes_that_are_no_dictionaries_are_refused(damage):
    good = gather(coded(["b"], ["b"])).to_bytes()
    other, _ = encode_shard([pa.record_batch({"x": [1]})])
    broken = {"empty": b"", "noise": b"\xff" * 100, "cut": good[:-50], "other": other.to_pybytes()}[damage]
    with pytest.raises(CorruptDataError, match=f"{len(broken)} bytes are no dictionaries"):
        Dictionaries.from_bytes(broken)


# -- what is refused -----------------------------------------------------------------------------------
def test_more_values_than_the_index_type_counts_are_refused_by_column():
    full = [coded([v], list(range(first, first + 64)), kind=pa.int32()) for v, first in ((0, 0), (64, 64))]
    assert len(gather(*full).values["c"]) == 128
    with pytest.raises(SourceError, match=r"'c' has 129 values .* int8 indices count 128; .* int32 indices"):
        gather(*full, coded([999], [999], kind=pa.int32()))


def test_ordered_dictionaries_may_grow_and_must_not_contradict():
    low = coded(["low"], ["low", "mid"], ordered=True)
    grown = coded(["high"], ["low", "mid", "high"], ordered=True)
    assert gather(low, grown).values["c"].to_pylist() == ["low", "mid", "high"]
    assert gather(grown, low).values["c"].to_pylist() == ["low", "mid", "high"]
    with pytest.raises(SourceError, match=r"ordered dictionary column 'c' .* one part has \['high', 'low'\]"):
        gather(low, coded(["low"], ["high", "low"], ordered=True))


def test_dictionaries_of_nested_values_must_be_the_same_or_longer():
    kind = pa.list_(pa.int8())
    short = pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), pa.array([[1], [2]], kind))
    long = pa.DictionaryArray.from_arrays(pa.array([2], pa.int8()), pa.array([[1], [2], None], kind))
    other = pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), pa.array([[3]], kind))
    dictionaries = gather(short, long, short)
    assert dictionaries.decode(dictionaries.encode(one(long)).to_batches()[0]).column("c").equals(long)
    with pytest.raises(SourceError, match="'c' has nested values that differ"):
        gather(short, other)


def test_a_value_that_the_snapshot_lacks_is_refused():
    with pytest.raises(SourceError, match=r"column 'c' holds values .* changed since the snapshot"):
        gather(coded(["a"], ["a"])).encode(one(coded(["b"], ["b"])))


def test_an_index_beyond_its_dictionary_is_refused():
    dictionaries = gather(coded(["a"], ["a"]))
    for bad in (1, -1):
        with pytest.raises(CorruptDataError, match="column 'c' of a chunk does not fit its dictionary"):
            dictionaries.decode(pa.record_batch({"c": pa.array([0, bad], pa.int8())}))
