import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from full_disk import files_up_to
from hypothesis import given
from hypothesis import strategies as st
from import_world import asked, reasons

from foreshard.access.importers import import_trace
from foreshard.access.importers.parquet_rows import DAMAGED, _decoded
from foreshard.access.importers.row_checks import RowChecker
from foreshard.errors import LogError

WEB12 = Path(__file__).parent.parent / "data" / "web12-5000.parquet"


def load(path, columns, **options):
    pq.write_table(pa.table(columns), path, row_group_size=options.pop("row_group_size", None))
    return import_trace(path, **options)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "log.parquet"


def test_a_real_trace_keeps_its_ids_and_order():
    got = import_trace(WEB12)
    assert asked(got) == pq.read_table(WEB12)["object_id"].to_pylist()
    assert got.trace.windows == 24
    assert got.report.lines() == ["parquet: 5000 requests from 1 file(s)"]
    assert got.trace.history().counts.sum() == 5000


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (pa.array([5, None, 6]), "object missing"),
        (pa.array([5, -1, 6], pa.int8()), "object negative"),
        (pa.array([5.0, 1.5, 6.0]), "object no integer"),
        (pa.array([5.0, float("nan"), 6.0]), "object no integer"),
        (pa.array([5.0, float("inf"), 6.0]), "object no integer"),
        (pa.array([5.0, -2.0, 6.0]), "object negative"),
    ],
)
def test_values_that_are_no_objects_are_left_out(file, values, reason):
    got = load(file, {"key": values})
    assert asked(got) == [5, 6]
    assert reasons(got.report) == {reason: 1}
    assert got.report.findings[0].examples[0].where == "row 1"


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int8(), pa.string())])
def test_objects_may_be_texts_of_any_kind(file, kind):
    got = load(file, {"path": pa.array(["b", None, "a", "", "b"]).cast(kind)})
    assert asked(got) == ["b", "a", "b"]
    assert reasons(got.report) == {"object missing": 2}


def test_binary_texts_that_are_no_utf8_are_left_out(file):
    got = load(file, {"path": pa.array([b"a", b"\xff", b"b"])}, object_column="path")
    assert asked(got) == ["a", "b"]
    assert reasons(got.report) == {"object not UTF-8": 1}


def text_with_a_wrong_byte():
    """Arrow looks at bytes that are called a text only when asked to."""
    ends = pa.py_buffer(np.array([0, 1, 2, 3], np.int32))
    return pa.Array.from_buffers(pa.string(), 3, [None, ends, pa.py_buffer(b"a\xffb")])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_texts_that_are_no_utf8_are_left_out_though_the_file_calls_them_texts(file, kind):
    keys = text_with_a_wrong_byte()
    keys = keys.dictionary_encode() if pa.types.is_dictionary(kind) else keys.cast(kind)
    got = load(file, {"path": keys})
    assert asked(got) == ["a", "b"]
    assert reasons(got.report) == {"object not UTF-8": 1}
    got = load(file, {"path": keys, "time": [1, -2, 3]})
    assert reasons(got.report) == {"object not UTF-8": 1}
    assert r"\xff" in got.report.findings[0].examples[0].value


def test_texts_of_one_length_are_objects(file):
    got = load(file, {"key": pa.array([b"ab", None, b"\xff\xff", b"cd"], pa.binary(2))})
    assert asked(got) == ["ab", "0xffff", "cd"]
    assert reasons(got.report) == {"object missing": 1}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (pa.string_view(), ["7", "8", "7"]),
        (pa.large_string(), ["7", "8", "7"]),
        (pa.large_binary(), [7, 8, 7]),
        (pa.dictionary(pa.int8(), pa.int64()), [7, 8, 7]),
        (pa.decimal128(20, 0), [7, 8, 7]),
        (pa.decimal128(20, 2), [7, 8, 7]),
    ],
)
def test_keys_of_rarer_types_are_objects(file, kind, names):
    base = (
        pa.array([7, 8, 7]) if pa.types.is_decimal(kind) or pa.types.is_dictionary(kind) else pa.array(["7", "8", "7"])
    )
    if pa.types.is_dictionary(kind):
        keys = base.dictionary_encode()
    else:
        keys = base.cast(pa.decimal128(38, 2)).cast(kind) if pa.types.is_decimal(kind) else base.cast(kind)
    got = load(file, {"key": keys, "size": pa.nulls(3)})
    assert asked(got) == names
    assert reasons(got.report) == {}


def test_decimals_that_no_integer_holds_are_texts(file):
    keys = pa.array([Decimal(10**25), Decimal(7)], pa.decimal128(38, 0))
    assert asked(load(file, {"key": keys})) == [str(10**25), "7"]


def test_digests_are_objects_in_hex(file):
    digests = [uuid.UUID(int=3 * 2**120 + i).bytes + b"\xff" * 4 for i in range(3)]
    assert asked(load(file, {"key": pa.array(digests, pa.binary(20))})) == [f"0x{one.hex()}" for one in digests]
    ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"\xf0" * 16], pa.binary(16)))
    assert asked(load(file, {"key": ids})) == ["0x" + "f0" * 16]


@pytest.mark.parametrize("kind", [pa.duration("ns"), pa.time64("ns"), pa.time32("ms"), pa.decimal128(24, 3)])
def test_times_without_an_origin_order_requests(file, kind):
    base = pa.array([5, None, 3, 1])
    times = base.cast(pa.int32()).cast(kind) if pa.types.is_time32(kind) else base.cast(kind)
    got = load(file, {"time": times, "key": ["c", "x", "b", "a"]})
    assert asked(got) == ["a", "b", "c"]
    assert reasons(got.report) == {"time missing": 1}


def test_two_columns_of_one_name_are_refused_only_if_they_are_wanted(file):
    columns = [pa.array([1, 2]), pa.array(["a", "b"]), pa.array([5, 6]), pa.array([7, 8])]
    pq.write_table(pa.Table.from_arrays(columns, names=["key", "key", "x", "x"]), file)
    with pytest.raises(LogError, match=r"log 'log\.parquet' has 2 columns that are called 'key'; give"):
        import_trace(file)
    pq.write_table(pa.Table.from_arrays(columns, names=["key", "b", "x", "x"]), file)
    assert asked(import_trace(file)) == [1, 2]


@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.uint64(), pa.float64(), pa.timestamp("ns"), pa.timestamp("s", tz="UTC"), pa.string()]
)
def test_times_may_be_numbers_dates_or_texts(file, kind):
    dates = [datetime(2025, 3, day, tzinfo=UTC) for day in (2, 1, 3)]
    if pa.types.is_timestamp(kind):
        times = pa.array(dates, pa.timestamp("s", tz="UTC")).cast(kind)
    else:
        times = pa.array([int(date.timestamp()) for date in dates]).cast(kind)
    got = load(file, {"time": times, "key": ["b", "a", "c"]})
    assert asked(got) == ["a", "b", "c"]
    assert reasons(got.report) == {}


def test_a_time_beyond_64_bits_or_missing_is_left_out(file):
    got = load(file, {"time": pa.array([1, 2**64 - 1, None, 3], pa.uint64()), "key": [1, 2, 3, 4]})
    assert asked(got) == [1, 4]
    assert reasons(got.report) == {"time unreadable": 1, "time missing": 1}


def test_rows_with_dates_that_python_cannot_hold_are_quoted(file):
    """Nanoseconds, a time zone that nobody knows, and years beyond Python's."""
    times = pa.array([1, 10**18 + 1, 3], pa.timestamp("ns", tz="Nowhere/Land"))
    got = load(file, {"time": times, "key": [5, -6, 7]})
    assert asked(got) == [5, 7]
    assert reasons(got.report) == {"object negative": 1}
    assert str(10**18 + 1) in got.report.findings[0].examples[0].value
    far = pa.array([1, 2**61, 3], pa.timestamp("ms"))
    got = load(file, {"time": far, "key": [5, 6, 7]})
    assert asked(got) == [5, 7]
    assert reasons(got.report) == {"time unreadable": 1}


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64(), pa.time32("s"), pa.time64("ns"), pa.duration("ns")])
def test_rows_with_any_time_are_quoted(file, kind):
    large = {"date32[day]": 2**30, "date64[ms]": 86_400_000 * 10**9}.get(str(kind), 1)
    base = pa.array([1, large], pa.int32() if kind.bit_width == 32 else pa.int64())
    got = load(file, {"time": base.cast(kind), "key": [5, -6]})
    assert "'object': -6" in got.report.findings[0].examples[0].value


def test_a_row_group_without_rows_is_nothing(file):
    with pq.ParquetWriter(file, pa.schema({"key": pa.int64()})) as writer:
        for keys in ([1], [], [2]):
            writer.write_table(pa.table({"key": pa.array(keys, pa.int64())}))
    assert asked(import_trace(file)) == [1, 2]


def test_a_damaged_dictionary_is_damage():
    keys = pa.DictionaryArray.from_arrays(pa.array([0, 7], pa.int32()), pa.array(["a", "b"]), safe=False)
    with pytest.raises(pa.ArrowException):
        _decoded(keys)
    assert _decoded(keys.slice(0, 1)).to_pylist() == ["a"]


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_days_are_times(file, kind):
    days = [datetime(2025, 3, day, tzinfo=UTC).date() for day in (2, 1, 3)]
    assert asked(load(file, {"date": pa.array(days, kind), "key": ["b", "a", "c"]})) == ["a", "b", "c"]


def test_columns_that_cannot_be_used_are_refused(file):
    with pytest.raises(LogError, match=r"log 'log\.parquet', column 'key': a column of list<.*> cannot be objects"):
        load(file, {"key": [[1], [2]]})
    with pytest.raises(LogError, match="column 'time': a column of bool cannot be times"):
        load(file, {"key": [1], "time": [True]})


def test_a_file_cut_short_is_named(file):
    load(file, {"key": [1, 2]})
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(LogError, match=r"log\.parquet' cannot be read as Parquet"):
        import_trace(file)


def test_a_damaged_row_group_is_reported_and_the_others_kept(file):
    keys = np.random.default_rng(5).integers(0, 10**9, 3000)
    keys[2500] = -7
    load(file, {"key": keys}, row_group_size=1000)
    column = pq.ParquetFile(file).metadata.row_group(1).column(0)
    raw = bytearray(file.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    raw[start : start + 40] = b"\xff" * 40
    file.write_bytes(bytes(raw))
    got = import_trace(file)
    assert asked(got) == [*keys[:1000], *keys[2000:2500], *keys[2501:]]
    assert {f.reason: (f.count, f.examples[0].where) for f in got.report.findings} == {
        DAMAGED: (1000, "rows 1000..1999"),
        "object negative": (1, "row 2500"),
    }
    assert got.report.quarantined == 1001


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40), st.sampled_from([pa.uint64(), pa.string()]))
def test_ids_of_64_bits_are_kept_whatever_their_highest_bit(tmp_path_factory, ids, kind):
    path = tmp_path_factory.getbasetemp() / "large.parquet"
    got = load(path, {"key": pa.array(ids, pa.uint64()).cast(kind)}, row_group_size=7)
    assert [int(name) for name in asked(got)] == ids
    assert reasons(got.report) == {}


@pytest.mark.parametrize("role", ["epoch", "size"])
def test_one_value_of_64_bits_costs_no_other_record(file, role):
    values = pa.array([1, 1, 2**63 + 5, 1], pa.uint64())
    got = load(file, {"key": [4, 5, 6, 7], role: values})
    assert [name for name in asked(got) if name != 6] == [4, 5, 7]
    assert sum(finding.count for finding in got.report.findings) == 1
    assert "above" in got.report.findings[0].reason


def test_a_file_of_texts_behind_one_of_integers_makes_texts_of_all(tmp_path):
    for name, keys in (("a", [7, 8]), ("b", ["x7", "7"]), ("c", [9.0, 1.5])):
        pq.write_table(pa.table({"key": keys}), tmp_path / f"{name}.parquet")
    got = import_trace(tmp_path)
    assert asked(got) == ["7", "8", "x7", "7", "9", "1.5"]
    assert reasons(got.report) == {}
    assert asked(import_trace(tmp_path / "a.parquet", object_type="text")) == ["7", "8"]


def test_an_error_of_our_own_is_not_taken_for_damage(file, monkeypatch):
    def broken(*_):
        raise pa.ArrowInvalid("ours")

    monkeypatch.setattr(RowChecker, "check", broken)
    with pytest.raises(pa.ArrowInvalid, match="ours"):
        load(file, {"key": [1]})


def test_a_damaged_row_group_is_one_line_of_the_quarantine_file_with_its_rows(file, tmp_path):
    keys = np.random.default_rng(5).integers(0, 10**9, 3000)
    load(file, {"key": keys}, row_group_size=1000)
    column = pq.ParquetFile(file).metadata.row_group(1).column(0)
    raw = bytearray(file.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    raw[start : start + 40] = b"\xff" * 40
    file.write_bytes(bytes(raw))
    import_trace(file, quarantine=tmp_path / "aside")
    (line,) = (tmp_path / "aside").read_text().splitlines()
    assert (json.loads(line)["count"], json.loads(line)["where"]) == (1000, "rows 1000..1999")


def test_a_full_disk_is_not_taken_for_a_damaged_log(file):
    pq.write_table(pa.table({"key": list(range(9000)), "time": list(range(9000))}), file)
    with files_up_to(1 << 14), pytest.raises(LogError, match="a temporary file cannot be written"):
        import_trace(file)
