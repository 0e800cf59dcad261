"""Whatever is done to a log: every valid record is in the trace, every malformed one in the report, nothing crashes."""

import gzip
import json
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from import_world import NOW_US, asked, dftracer_log, event, oracle_record

from foreshard.access.importers import files as log_files
from foreshard.access.importers import import_trace
from foreshard.errors import LogError

LONG = b"7" * (log_files.LINE_BYTES + 1)

BAD_CSV = [
    b"1700000000,abc,1",
    b"1700000000,-5,1",
    b"1700000000,,1",
    b"1700000000,1.5,1",
    b"1700000000,3\x00,1",
    b"1700000000,\xff\xfe,1",
    b"1700000000,99999999999999999999999,1",
    b"soon,5,1",
    b"-1,5,1",
    b"4000000000,5,1",
    b"1700000000,5",
    b"1700000000",
    b"1700000000,5,1,1",
    b'1700000000,"5,1',
    b'"',
    b"1700000000,5\r,1",
    b"\xf0\x28\x8c\x28",
    LONG,
]
BAD_LIS = [
    b"1 1 0",
    b"1 1 0 1 1",
    b"x 1 0 1",
    b"-1 1 0 1",
    b"1 0 0 1",
    b"1 99999999 0 1",
    b"1 1 0 -1",
    b"1 1 0 z",
    b"1.5 1 0 1",
    b"\xff 1 0 1",
    b"99999999999999999999999 1 0 1",
    b'"1" 1 0 1',
    LONG,
]
BAD_DFTRACER = [
    b"{",
    b"{]}",
    b'{"name":1,"ph":"X"}',
    b'{"name":"read"}',
    b"\xff\xfe",
    b"null",
    b"1,2,3",
    b"[[[[",
    event(5000, "pread", "POSIX", "now", fhash=101, ret=1),
    event(5000, "pread", "POSIX", -5, fhash=101, ret=1),
    event(5000, "pread", "POSIX", 4 * 10**15, fhash=101, ret=1),
    event(-5000, "pread", "POSIX", NOW_US, fhash=101, ret=1),
    event(5000, "pread", "POSIX", NOW_US, fhash=1.5, ret=1),
    event(5000, "pread", "POSIX", NOW_US, pid=None, fhash=101, ret=1),
    event(5000, "pread", "POSIX", NOW_US, fhash=101, ret=1)[:-9],
    LONG,
]
BAD_ORACLE = [oracle_record(1_700_000_000, 1, following=-3), oracle_record(4_000_000_000, 1)]

KEYS = st.lists(st.integers(0, 9), min_size=1, max_size=30)


def some(bad):
    """Where malformed records go, and which."""
    return st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(bad)), max_size=8)


def mix(lines, inserted, start=0):
    mixed = list(lines)
    for place, line in inserted:
        mixed.insert(start + place % (len(mixed) - start + 1), line)
    return mixed


def load(name, content, **options):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        aside = Path(folder) / "aside.jsonl"
        got = import_trace(path, quarantine=aside, **options)
        written = [json.loads(line) for line in aside.read_text().splitlines()]
        assert sum(record.get("count", 1) for record in written) == got.report.quarantined
        return got


def csv_lines(keys):
    return [b"time,key,size", *(b"%d,%d,%d" % (1_700_000_000 + i, key, key + 1) for i, key in enumerate(keys))]


@given(KEYS, some(BAD_CSV), st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_csv_keeps_every_valid_line_and_reports_every_other(keys, inserted, newline, last):
    content = newline.join(mix(csv_lines(keys), inserted, start=1)) + (newline if last else b"")
    got = load("log.csv", content, object_type="int")
    assert asked(got) == keys
    assert got.report.quarantined == len(inserted)
    assert all(got.trace.nbytes == [name + 1 for name in got.trace.names])


@given(KEYS, some(BAD_LIS))
def test_lis_keeps_every_valid_line_and_reports_every_other(keys, inserted):
    lines = [b"%d %d 0 %d" % (key, 1 + key % 3, number) for number, key in enumerate(keys)]
    got = load("log.lis", b"\n".join(mix(lines, inserted)) + b"\n")
    assert asked(got) == [page for key in keys for page in range(key, key + 1 + key % 3)]
    assert got.report.quarantined == len(inserted)


@given(KEYS, some(BAD_ORACLE), st.binary(max_size=23))
def test_oracle_keeps_every_valid_record_and_reports_every_other(keys, inserted, tail):
    records = [oracle_record(1_700_000_000 + i, key) for i, key in enumerate([*keys, *keys, *keys, *keys, *keys])]
    got = load("log.oracleGeneral", b"".join(mix(records, inserted)) + tail)
    assert asked(got) == keys * 5
    assert got.report.quarantined == len(inserted) + bool(tail)


@given(st.lists(KEYS, min_size=1, max_size=3), some(BAD_DFTRACER))
def test_dftracer_keeps_every_valid_event_and_reports_every_other(epochs, inserted):
    lines = mix(dftracer_log(epochs), inserted)
    got = load("trace.pfw", b"[\n" + b"\n".join(lines) + b"\n]")
    windows = [got.trace.names[got.trace.window(number)].tolist() for number in range(got.trace.windows)]
    assert windows == [[f"/data/f{f}" for f in files] for files in epochs]
    assert got.report.quarantined == len(inserted)


@given(KEYS, st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from([None, -1, -(2**40)])), max_size=8))
def test_parquet_keeps_every_valid_row_and_reports_every_other(keys, inserted):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"key": pa.array(mix(keys, inserted), pa.int64())}), sink, row_group_size=4)
    got = load("log.parquet", sink.getvalue().to_pybytes())
    assert asked(got) == keys
    assert got.report.quarantined == len(inserted)


@settings(max_examples=40)
@given(KEYS, st.randoms(use_true_random=False))
def test_lines_in_another_order_lose_nothing(keys, random):
    header, *lines = csv_lines(keys)
    random.shuffle(lines)
    assert asked(load("log.csv", b"\n".join([header, *lines]))) == keys  # their times tell the order
    lis = [b"%d 1 0 %d" % (key, number) for number, key in enumerate(keys)]
    random.shuffle(lis)
    got = load("log.lis", b"\n".join(lis))
    assert Counter(asked(got)) == Counter(keys)
    assert got.report.quarantined == 0


@settings(max_examples=40)
@given(st.lists(KEYS, min_size=1, max_size=2), st.data())
def test_repeated_records_of_formats_with_identity_count_once(epochs, data):
    lines = dftracer_log(epochs)
    events = [line for line in lines if b'"FH"' not in line]
    again = [(0, line) for line in data.draw(st.lists(st.sampled_from(events), max_size=6))]
    got = load("trace.pfw", b"\n".join(mix(lines, again)))
    assert [len(got.trace.window(number)) for number in range(got.trace.windows)] == [len(files) for files in epochs]
    assert got.report.quarantined == len(again)
    keys = epochs[0]
    numbered = [b"%d 1 0 %d" % (key, number) for number, key in enumerate(keys)]
    twice = data.draw(st.lists(st.tuples(st.integers(0, 99), st.sampled_from(numbered)), max_size=len(keys)))
    got = load("log.lis", b"\n".join(mix(numbered, twice)))
    assert Counter(asked(got)) == Counter(keys)
    assert got.report.quarantined == len(twice)


@given(KEYS, st.floats(0, 1), st.sampled_from([None, gzip.compress]))
def test_a_log_cut_anywhere_keeps_what_is_in_front_of_the_cut(keys, share, pack):
    content = b"\n".join(csv_lines(keys)) + b"\n"
    content = pack(content) if pack else content
    cut = content[: int(share * len(content))]
    try:
        got = asked(load("log.csv", cut, object_type="int"))
    except LogError:
        return
    assert got == keys[: len(got)]
    if pack is None:
        assert len(got) >= cut.count(b"\n") - 1


def read_or_refused(name, content):
    """Return what was read, or why it was not, in words; anything but a `LogError` is a crash."""
    try:
        return load(name, content).report.lines()
    except LogError as error:
        return str(error)


TEXTS = st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore"))
NAMES = ["a.csv", "a.lis", "a.oracleGeneral", "a.pfw", "a.parquet", "a.tar", "a.csv.gz"]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(content=st.one_of(st.binary(max_size=400), TEXTS))
def test_arbitrary_bytes_are_read_or_refused_in_words(name, content):
    assert read_or_refused(name, content)


def damaged(raw, changes):
    damage = bytearray(raw)
    for place, value in changes:
        damage[place % len(damage)] = value
    return bytes(damage)


CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6)


@settings(max_examples=60)
@given(CHANGES, st.sampled_from(NAMES))
def test_damaged_logs_are_read_or_refused_in_words(changes, name):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"key": list(range(50)), "time": list(range(50))}), sink, row_group_size=10)
    csv = b"\n".join(csv_lines(list(range(50))))
    contents = {
        "a.csv": csv,
        "a.csv.gz": gzip.compress(csv),
        "a.lis": b"".join(b"%d 2 0 %d\n" % (i, i) for i in range(50)),
        "a.oracleGeneral": b"".join(oracle_record(i, i) for i in range(50)),
        "a.pfw": b"\n".join(dftracer_log([[1, 2, 3]] * 2)),
        "a.parquet": sink.getvalue().to_pybytes(),
        "a.tar": Path(__file__).parent.parent.joinpath("data/dlio-unet3d-2-of-8.tar.gz").read_bytes()[:5000],
    }
    assert read_or_refused(name, damaged(contents[name], changes))
