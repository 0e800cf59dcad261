"""Which numbers are dates: a wrong guess costs no record, and a date in the future is still found."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from import_world import asked, load, oracle_record, reasons

from foreshard.access.importers import files as log_files
from foreshard.access.importers import import_trace
from foreshard.access.importers.horizon import FUTURE, NO_DATES, UNITS

NOW = int(time.time())


def timed(path: Path, times):
    """Import a log of these times, whose objects are numbered."""
    return load(path, "time,key\n" + "".join(f"{at},{key}\n" for key, at in enumerate(times)))


@pytest.fixture
def csv(tmp_path):
    return tmp_path / "log.csv"


@given(start=st.integers(0, 3 * 10**15), step=st.integers(0, 10**13), count=st.integers(25, 200))
def test_a_clock_that_counts_from_anywhere_loses_no_record(tmp_path_factory, start, step, count):
    times = [start + step * i for i in range(count)]
    got = timed(tmp_path_factory.getbasetemp() / "clock.csv", times)
    assert asked(got) == list(range(count))
    assert reasons(got.report) == {}


@pytest.mark.parametrize("per_second", UNITS)
@pytest.mark.parametrize("length_s", [60, 1800, 3600, 86_400, 30 * 86_400, 10 * 365 * 86_400])
def test_times_since_the_start_are_no_dates_in_any_unit(csv, per_second, length_s):
    times = [i * length_s * per_second // 1000 for i in range(1000)]
    got = timed(csv, times)
    assert len(asked(got)) == 1000
    assert got.report.findings == ()


@pytest.mark.parametrize("kind", ["csv", "oracle"])
@pytest.mark.parametrize("block", range(1000, 2000, 100))  # in some, few records behind "now" end a block
def test_a_guess_that_later_batches_refute_is_given_up_and_told(tmp_path, monkeypatch, kind, block):
    """Microseconds since a start 20 minutes ago look like the years 2008 to 2038, in seconds."""
    monkeypatch.setattr(log_files, "BLOCK_BYTES", block)
    times = [1_200_000_000 + i * 1_200_000 for i in range(1000)]
    if kind == "csv":
        got = timed(tmp_path / "log.csv", times)
    else:
        got = load(tmp_path / "log.oracleGeneral", b"".join(oracle_record(at, i) for i, at in enumerate(times)))
    assert asked(got) == list(range(1000))
    assert reasons(got.report) == {}
    ahead = sum(at > NOW + 86_400 for at in times)
    assert got.report.count(NO_DATES) == pytest.approx(ahead, abs=1)


def test_a_log_that_begins_before_2000_is_not_guessed_to_be_of_dates(csv):
    """5% of it are no dates in seconds, so that nothing is said of the last record, which would be far ahead."""
    got = timed(csv, [*(905_000_000 + 800_000 * i for i in range(1000)), 10**10])
    assert len(asked(got)) == 1001
    assert got.report.findings == ()


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("ahead_s", [3 * 86_400, 10**9])
@pytest.mark.parametrize("block", [4 << 20, 4000])
def test_a_rare_date_ahead_of_the_clock_is_a_fault(csv, monkeypatch, unit, ahead_s, block):
    monkeypatch.setattr(log_files, "BLOCK_BYTES", block)
    times = [(NOW - 7_200_000 + 3600 * i) * unit for i in range(2000)]  # 83 days
    wrong = {77, 600, 1500}
    for row in wrong:
        times[row] = (NOW + ahead_s) * unit
    got = timed(csv, times)
    assert asked(got) == [i for i in range(2000) if i not in wrong]
    assert reasons(got.report) == {FUTURE: 3}
    assert got.report.count(NO_DATES) == 0


def test_seconds_with_a_fraction_are_looked_for_in_their_own_unit(csv):
    """As integers they are microseconds, and 1000.5 s are a date in none."""
    got = timed(csv, [1000.5 + i for i in range(2000)])
    assert len(asked(got)) == 2000
    assert got.report.findings == ()
    got = timed(csv, [*(NOW - 5000.5 + i for i in range(500)), NOW + 10**9 + 0.5])
    assert reasons(got.report) == {FUTURE: 1}


def test_declared_dates_are_judged_as_what_they_are(tmp_path):
    path = tmp_path / "log.parquet"
    days = pa.array(np.arange(3000) * 86_400_000, pa.date64())  # from 1970 on, which no guess takes for dates
    pq.write_table(pa.table({"time": days, "key": np.arange(3000)}), path)
    got = import_trace(path)
    assert asked(got) == list(range(3000))
    assert got.report.findings == ()
    times = [datetime.now(UTC) - timedelta(days=3.5 - day) for day in range(40)]
    pq.write_table(pa.table({"time": pa.array(times, pa.timestamp("ns", "UTC")), "key": np.arange(40)}), path)
    assert reasons(import_trace(path).report) == {FUTURE: 35}


@pytest.mark.parametrize("year", [1999, 2150])
def test_dates_that_were_all_shifted_are_kept(csv, year):
    got = timed(csv, [datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=i) for i in range(100)])
    assert asked(got) == list(range(100))
    assert got.report.findings == ()
