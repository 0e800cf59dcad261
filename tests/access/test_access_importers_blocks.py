"""oracleGeneral and LIS: logs of block requests, in binary and in text."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from import_world import asked, load, oracle_record, reasons

from foreshard.access.importers import files as log_files
from foreshard.access.importers import import_trace, lis
from foreshard.access.importers.lis import BEYOND, DUPLICATE, LATE, NO_IDENTITY, NO_PAGES
from foreshard.access.importers.oracle import NO_NEXT, RECORD, TRUNCATED
from foreshard.errors import ConfigError


@pytest.fixture
def oracle(tmp_path):
    return tmp_path / "log.oracleGeneral"


@pytest.fixture
def pages(tmp_path):
    return tmp_path / "log.lis"


def test_oracle_records_are_read_as_libcachesim_writes_them(oracle):
    """Bytes written by hand: time, id, size, next, each least significant byte first."""
    raw = bytes.fromhex("01000000 0500000000000080 00100000 02000000 00000000".replace(" ", ""))
    raw += bytes.fromhex("02000000 0600000000000000 00020000 ffffffff ffffffff".replace(" ", ""))
    got = load(oracle, raw)
    assert asked(got) == [2**63 + 5, 6]
    assert got.trace.nbytes.tolist() == [4096, 512]
    assert got.report.findings == ()


def test_oracle_files_may_be_compressed_and_blocks_may_end_anywhere(oracle, monkeypatch):
    raw = b"".join(oracle_record(i, i % 7, i + 1) for i in range(100))
    whole = load(oracle, raw)
    monkeypatch.setattr(log_files, "BLOCK_BYTES", 37)
    parts = load(oracle, gzip.compress(raw))
    assert asked(parts) == asked(whole) == [i % 7 for i in range(100)]
    assert parts.trace.nbytes.tolist() == whole.trace.nbytes.tolist() == [99, 100, 94, 95, 96, 97, 98]


def test_oracle_faults_are_reported(oracle):
    now = 1_700_000_000
    raw = oracle_record(now, 1) + oracle_record(now, 2, following=-3) + oracle_record(4_000_000_000, 3)
    raw += oracle_record(now, 4, following=-2) + oracle_record(now - 9, 5) + oracle_record(now, 6)[:23]
    got = load(oracle, raw)
    assert asked(got) == [5, 1, 4]
    assert reasons(got.report) == {NO_NEXT: 1, "time in the future": 1, TRUNCATED: 1}
    assert reasons(got.report, kept=True) == {"time before the request in front of it": 1}
    places = {finding.reason: finding.examples[0].where for finding in got.report.findings}
    assert places[NO_NEXT] == "record 1"
    assert places[TRUNCATED] == "byte 120"


def test_an_object_of_no_bytes_counts_as_one(oracle):
    assert load(oracle, oracle_record(0, 1, 0)).trace.nbytes.tolist() == [1]


def test_a_lis_line_asks_for_every_page_of_its_run(pages):
    got = load(pages, "100 3 0 1\n102 1 0 2\n  7\t2 0 3 \r\n")
    assert asked(got) == [100, 101, 102, 102, 7, 8]
    assert set(got.trace.nbytes.tolist()) == {512}
    assert got.report.findings == ()


def test_lis_pages_may_be_gathered_in_extents(pages):
    got = load(pages, "100 60 0 1\n127 2 0 2\n255 1 0 3\n", extent=128)
    assert asked(got) == [0, 1, 0, 1, 1]
    assert set(got.trace.nbytes.tolist()) == {128 * 512}
    with pytest.raises(ConfigError, match="extent of 0 pages"):
        load(pages, "1 1 0 1\n", extent=0)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 300)), min_size=1), st.integers(1, 50))
def test_lis_runs_expand_as_one_by_one_however_they_are_batched(tmp_path_factory, runs, batch):
    path = tmp_path_factory.getbasetemp() / "runs.lis"
    text = "".join(f"{start} {count} 0 {number}\n" for number, (start, count) in enumerate(runs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lis, "_BATCH", batch)
        patch.setattr(lis, "_RECORDS", max(1, batch // 3))
        got = load(path, text)
    assert asked(got) == [page for start, count in runs for page in range(start, start + count)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("5 1 0", "wrong number of fields"),
        ("5 1 0 9 9", "wrong number of fields"),
        ("x 1 0 9", "first page no integer"),
        ("-5 1 0 9", "first page negative"),
        ("5 0 0 9", NO_PAGES),
        ("5 1048577 0 9", NO_PAGES),
        ("5 99999999999999999999999 0 9", "number of pages no integer"),
        ("5 1 z 9", "third field no integer"),
        ("5 1 0 -9", "request number negative"),
        ("9223372036854775807 2 0 9", BEYOND),
        ("18446744073709551615 1 0 9", BEYOND),
    ],
)
def test_a_malformed_lis_line_is_left_out(pages, line, reason):
    got = load(pages, f"1 1 0 1\n{line}\n2 1 0 10\n")
    assert asked(got) == [1, 2]
    assert reasons(got.report) == {reason: 1}
    assert got.report.findings[0].examples[0].where == "line 2"


def test_a_repeated_lis_record_is_left_out_but_not_one_that_only_looks_alike(pages, monkeypatch):
    monkeypatch.setattr(lis, "_RECORDS", 2)
    got = load(pages, "1 2 0 1\n5 1 0 2\n1 2 0 3\n1 2 0 1\n5 1 0 1\n7 1 0 4\n")
    assert asked(got) == [1, 2, 5, 1, 2, 5, 7]
    assert reasons(got.report) == {DUPLICATE: 1}
    assert got.report.findings[0].examples[0].where == "line 4"
    assert reasons(got.report, kept=True) == {LATE: 2}


def test_lis_numbers_that_never_change_are_no_identity(pages):
    got = load(pages, "1 1 0 0\n" * 5)
    assert asked(got) == [1] * 5
    assert reasons(got.report) == {}
    assert reasons(got.report, kept=True) == {NO_IDENTITY: 5, LATE: 4}


def test_a_folder_of_lis_files_may_number_its_requests_in_each(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.lis").write_text("1 1 0 1\n")
    assert asked(import_trace(tmp_path)) == [1, 1]


def test_oracle_layout_is_24_bytes():
    assert RECORD.itemsize == 24
    assert np.dtype(RECORD).isalignedstruct is False
