"""Loaders against each other: what arrives is checked, failures stay in sight, and the search ends near the truth."""

import json
import math
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import loader_peers, peers_data
from benchmarks.harness import Figure
from benchmarks.peers_contenders import CONTENDERS, Contender, collate_files, collate_records
from benchmarks.peers_data import COLUMNS, case_of, checksums, expected_checksums, payload_views, publish, record_type
from benchmarks.peers_reading import read_epoch
from benchmarks.peers_rounds import AcceleratorSearch, Entry, Place, RateSearch, checked, run_rounds


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    case = case_of("samples", 1_000)
    found = Place(case, (tmp_path / "store").as_uri(), None, {}, expected_checksums(case.workload()), str(tmp_path))
    publish(case, found.url("foreshard"), found.endpoint)
    return found


def read(place, **changed):
    run = place.run("foreshard", {}, **changed)
    return checked(read_epoch(json.dumps(vars(run))), place, run)


def test_an_epoch_of_foreshard_holds_the_values_of_the_source(place):
    answer = read(place)
    assert (answer["rows"], answer["whole"], answer["sums"]) == (1_000, True, place.expected)
    assert 0 < answer["first_batch_s"] <= answer["seconds"]
    assert answer["cpu_s"] > 0


def test_an_epoch_ends_early_only_where_that_was_asked_for(place):
    assert read(place, limit_s=0.0)["rows"] == place.case.batch
    run = place.run("foreshard", {})
    assert checked({"rows": 256, "whole": False, "sums": [0, 0, 0]}, place, run) == {
        "error": "256 of 1000 rows arrived"
    }


def test_values_that_cannot_be_are_found_in_a_part_of_an_epoch(place):
    run = place.run("foreshard", {}, limit_s=1.0)
    for sums in ([256, -1, 5], [256, place.expected[1] + 1, 5]):
        assert checked({"rows": 256, "whole": False, "sums": sums}, place, run)["error"].startswith("other values")
    assert "error" not in checked({"rows": 256, "whole": False, "sums": [256, 1, 5]}, place, run)


def test_a_run_that_fails_once_is_done_again_and_the_failure_is_kept():
    answers = iter([{"error": "it hung"}, {"seconds": 1.0, "rows": 10}, {"seconds": 2.0, "rows": 10}])
    flaky = Entry("litdata", lambda: next(answers))
    assert [flaky.once(), flaky.once()] == [0.1, 0.2]
    assert (flaky.failures, flaky.error, len(flaky.answers)) == (["it hung"], None, 2)


def test_an_emulated_accelerator_is_busy_for_the_time_that_it_sleeps(place):
    answer = read(place, rate=2_000.0)
    assert answer["seconds"] >= 0.5
    assert answer["utilisation"] * answer["seconds"] == pytest.approx(0.5, abs=0.2)


def test_a_contender_that_fails_is_an_answer(place, monkeypatch, capfd):
    def broken(run, folder):
        raise OSError(f"no {run.url} in {folder.name[:6]}")

    monkeypatch.setitem(CONTENDERS, "foreshard", Contender(lambda: None, broken, {}))
    assert read(place)["error"].startswith("OSError: no file://")
    assert "Traceback" in capfd.readouterr().err


def test_checksums_tell_lost_repeated_and_torn_rows():
    payloads, labels = [b"ab", b"cde", b"fg"], np.array([3, 5, 7])
    whole = checksums("samples", (payloads, labels)).tolist()
    assert whole == [7, 15, 3 * (97 + 98) + 5 * (99 + 101) + 7 * (102 + 103)]
    torn = checksums("samples", (payloads, labels[::-1])).tolist()
    lost = checksums("samples", (payloads[1:], labels[1:])).tolist()
    assert whole not in (torn, lost)
    flights = {"flight": np.array([1, 20_000], np.int16), "distance": np.array([300, 4_000], np.int16)}
    assert checksums("tabular", flights).tolist() == [2, 20_001, 300 + 20_000 * 4_000]


def test_views_of_payloads_are_those_of_the_slice():
    column = pa.array([b"a", b"\xffb", b"", b"cd"], pa.binary())
    assert [bytes(view) for view in payload_views(column.slice(1))] == [b"\xffb", b"", b"cd"]
    assert payload_views(column.slice(1))[0][0] == 255


def test_rows_of_a_tar_come_back_as_columns(tmp_path):
    columns = {name: pa.array([1, 0, 1], pa.int8()) for name in COLUMNS}
    columns |= {"dep_delay": pa.array([-5, None, 7], pa.int16()), "late": pa.array([True, False, True])}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    records = list(peers_data._records([tmp_path / "rows.parquet"]))
    assert [len(record) for record in records] == [record_type().itemsize] * 3
    found = collate_records([(record,) for record in records])
    assert found["dep_delay"].tolist() == [-5, 0, 7]
    assert found["late"].tolist() == [True, False, True]
    assert collate_files([(b"x", b"12"), (b"y", b"3")])[1].tolist() == [12, 3]


def test_flights_are_repeated_to_the_number_of_rows_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    work = case_of("tabular", 400_000).workload()
    assert work.snapshot.rows == 400_000
    rows = pa.concat_tables(pq.read_table(file) for file in work.files)
    assert rows.column_names == list(COLUMNS)
    assert rows.column("month").value_counts().to_pylist()[0]["counts"] > 20_000
    assert len(set(rows.column("month")[:1_000].to_pylist())) == 12


@pytest.mark.parametrize("truth", [90.0, 700.0, 1_000.0, 1_240.0])
def test_the_search_for_a_rate_ends_close_below_the_highest_that_passes(truth):
    search = RateSearch(1_000.0)
    for _ in range(9):
        search.record(search.rate <= truth)
    assert search.passed <= truth < search.failed
    assert search.failed / search.passed < 1.07


def entry(name, seconds, cpu=1.0, error=None):
    answers = [{"seconds": each, "cpu_s": cpu, "rows": 100, "peak_rss_mb": 1.0} for each in seconds]
    return Entry(name, dict, answers, error=error)


def test_figures_compare_with_the_quickest_and_with_the_most_frugal_peer():
    entries = [
        entry("foreshard", [1.0, 2.0, 3.0], cpu=0.5),
        entry("foreshard, max_concurrency=8", [0.1, 0.1, 0.1], cpu=0.1),
        entry("mosaicml", [10.0, 12.0, 30.0], cpu=4.0),
        entry("litdata", [8.0, 8.0, 8.0], cpu=9.0),
        entry("webdataset", [20.0, 20.0, 20.0], cpu=2.0),
    ]
    found = loader_peers.speedup(entries)
    assert (found.median, found.high) == (4.0, 8.0)
    assert loader_peers.cpu_ratio(entries) == 0.25
    entries[3].error = "it hung"
    assert loader_peers.speedup(entries) is None
    assert loader_peers.cpu_ratio(entries) is None


def test_the_worse_server_counts_and_a_missing_figure_stays_missing():
    def figures(speed, cpu):
        return [Figure("speed", speed, 2.5, at_least=True), Figure("cpu", cpu, 0.4, at_least=False)]

    worse = loader_peers.worst([figures(3.0, 0.3), figures(2.6, 0.2)])
    assert [figure.value for figure in worse] == [2.6, 0.3]
    assert loader_peers.worst([figures(3.0, 0.3), figures(None, 0.2)])[0].value is None


def test_a_contender_that_failed_twice_is_not_run_again_and_its_row_says_so(capsys):
    calls = []

    def fails():
        calls.append("peer")
        return {"error": "it hung"}

    fine = Entry(
        "foreshard", lambda: {"seconds": 1.0, "rows": 10, "cpu_s": 1.0, "process_cpu_s": 2.0, "peak_rss_mb": 3}
    )
    failing = Entry("litdata", fails)
    run_rounds([fine, failing], 2)
    assert calls == ["peer"] * 2
    assert len(fine.answers) == 2
    assert math.isnan(failing.once())
    loader_peers.print_entries("title", [fine, failing], 1.0, "CPU s")
    assert "litdata: it hung" in capsys.readouterr().out
    assert loader_peers.summary([failing]) == {"litdata": {"error": "it hung"}}


def test_rates_compare_with_the_best_peer_and_a_failed_one_leaves_no_figure():
    def search(passed, error=None):
        return AcceleratorSearch("name", None, RateSearch(1.0, passed=passed), error=error)

    assert loader_peers.rate_ratio([search(900.0), search(300.0), search(100.0)]) == 3.0
    assert loader_peers.rate_ratio([search(900.0), search(300.0), search(100.0, "it hung")]) is None
    assert loader_peers.rate_ratio([search(900.0), search(0.0)]) is None
