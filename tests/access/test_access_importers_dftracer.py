import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from import_world import NOW_US, asked, dftracer_log, event, file_hash, load, reasons

from foreshard.access.importers import files as log_files
from foreshard.access.importers import import_trace
from foreshard.access.importers.dftracer_events import AGGREGATED, NO_JSON, NO_PHASE, NOT_UTF8
from foreshard.access.importers.dftracer_join import (
    ABSENT,
    BETWEEN,
    MISSING,
    NO_FILE,
    REPEATED,
    SKEWED,
    UNFINISHED,
    last_before,
)
from foreshard.errors import LogError

DLIO = Path(__file__).parent.parent / "data" / "dlio-unet3d-2-of-8.tar.gz"
EPOCHS = [[1, 2, 3, 2], [3, 1, 2, 2]]
PATHS = [[f"/data/f{f}" for f in files] for files in EPOCHS]


@pytest.fixture
def pfw(tmp_path):
    return tmp_path / "trace.pfw"


def text(lines):
    return b"[\n" + b"\n".join(lines) + b"\n]"


def windows(trace):
    return [trace.names[trace.window(number)].tolist() for number in range(trace.windows)]


def test_a_real_training_loader_reads_every_file_once_an_epoch():
    got = import_trace(DLIO)
    assert got.report.lines() == ["dftracer: 200 requests from 1 file(s)"]
    assert (got.trace.windows, len(got.trace.names)) == (5, 40)
    assert (got.trace.history().counts == 1).all()
    assert all(name.endswith(".hdf5") for name in got.trace.names)
    assert set(got.trace.nbytes.tolist()) == {146579449}
    assert len({tuple(got.trace.window(number).tolist()) for number in range(5)}) == 5


def test_the_reads_of_a_real_loader_may_be_asked_for_instead():
    got = import_trace(DLIO, requests="reads")
    assert (got.trace.history().counts == 9).all()
    assert got.trace.windows == 5


def test_samples_are_named_by_their_file_and_lie_in_their_epoch(pfw):
    got = load(pfw, text(dftracer_log(EPOCHS)))
    assert windows(got.trace) == PATHS
    sizes = dict(zip(got.trace.names.tolist(), got.trace.nbytes.tolist(), strict=True))
    assert sizes == {"/data/f1": 21, "/data/f2": 22, "/data/f3": 23}
    assert got.report.findings == ()


def test_lines_in_any_order_give_the_same_trace(pfw):
    lines = dftracer_log(EPOCHS)
    lines = [lines[i] for i in np.random.default_rng(4).permutation(len(lines))]
    got = load(pfw, text(lines))
    assert windows(got.trace) == PATHS
    assert got.report.findings == ()


def test_ranks_are_merged_by_time_within_epochs(tmp_path):
    for pid in (7, 8):
        lines = dftracer_log([[pid, pid + 10], [pid + 10, pid]], pid, shift=pid)
        (tmp_path / f"trace-{pid}.pfw.gz").write_bytes(gzip.compress(text(lines)))
    got = import_trace(tmp_path)
    assert windows(got.trace) == [[f"/data/f{f}" for f in files] for files in ([7, 8, 17, 18], [17, 18, 7, 8])]
    assert got.report.findings == ()


def test_the_format_since_version_2_is_read(pfw):
    """Numbers as phases, no brackets, no ids on metadata, hashes as texts."""
    lines = []
    for line in dftracer_log(EPOCHS):
        raw = json.loads(line)
        raw["ph"] = {"X": 1, "M": 4}[raw["ph"]]
        if raw["ph"] == 4:
            del raw["id"]
            raw["args"]["value"] = f"h{raw['args']['value']}"
        elif "fhash" in raw["args"]:
            raw["args"]["fhash"] = f"h{raw['args']['fhash']}"
        lines.append(json.dumps(raw).encode())
    got = load(pfw, b"\n".join(lines) + b"\n")
    assert windows(got.trace) == PATHS
    assert got.report.findings == ()


def test_a_log_without_samples_is_reads_and_without_epochs_equal_windows(pfw):
    lines = [line for line in dftracer_log(EPOCHS) if b"get_sample" not in line and b"_train" not in line]
    got = load(pfw, text(lines), windows=4)
    reads = [path for files in PATHS for path in files for _ in range(2)]
    assert asked(got) == reads
    assert got.trace.starts.tolist() == [0, 4, 8, 12, 16]
    assert set(got.trace.nbytes.tolist()) == {20}
    with pytest.raises(LogError, match="holds no sample"):
        load(pfw, text(lines), requests="samples")


def test_items_of_the_data_set_count_where_the_reader_does_not_speak(pfw):
    lines = [
        line.replace(b'"NPZReader.get_sample", "cat": "reader"', b'"Set.__getitem__", "cat": "x"')
        for line in dftracer_log(EPOCHS)
    ]
    got = load(pfw, text(lines))
    assert windows(got.trace) == PATHS
    assert set(got.trace.nbytes.tolist()) == {20}


def test_a_file_without_a_name_is_called_by_its_hash(pfw):
    lines = [line for line in dftracer_log(EPOCHS) if b'"FH"' not in line]
    assert set(asked(load(pfw, text(lines)))) == {"hash 101", "hash 102", "hash 103"}


def test_a_name_that_is_no_text_is_kept_escaped(pfw):
    """JSON may hold one half of a character, as of a file whose name is not UTF-8."""
    lines = [line.replace(b"/data/f2", rb"/data/\udcff") for line in dftracer_log(EPOCHS)]
    got = load(pfw, text(lines))
    assert windows(got.trace) == [[path.replace("f2", r"\udcff") for path in paths] for paths in PATHS]
    assert got.report.findings == ()


def test_failed_and_untraced_calls_are_no_reads(pfw):
    lines = [file_hash(1, "/a"), event(1, "read", "POSIX", NOW_US, fhash=1, ret=5)]
    lines += [event(2, "read", "POSIX", NOW_US + 1, fhash=1, ret=-1), event(3, "read", "POSIX", NOW_US + 2, ret=5)]
    lines += [event(4, "write", "POSIX", NOW_US + 3, fhash=1, ret=5)]
    assert asked(load(pfw, text(lines))) == ["/a"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id":1', NO_JSON),
        (b"[1,2]", NO_JSON),
        (b'"text"', NO_JSON),
        (b"\x00\x01", NO_JSON),
        (b"[" * 100_000, NO_JSON),
        (b'{"id": ' + b"9" * 5000 + b"}", NO_JSON),
        (b'{"name":"\xff"}', NOT_UTF8),
        (b'{"ph":"X"}', "name is no text"),
        (b'{"name":"a","ph":"X","args":[]}', "args are no object"),
        (b'{"name":"a","ph":"Q"}', NO_PHASE),
        (b'{"name":"a","ph":true}', NO_PHASE),
        (b'{"name":"a"}', NO_PHASE),
        (b'{"name":"a","ph":"X"}', "ts is no integer"),
        (event(1, "a", "b", "soon"), "ts is no integer"),
        (event(1, "a", "b", 1.5), "ts is no integer"),
        (event(1, "a", "b", -1), "ts is negative"),
        (event(1, "a", "b", 2**62), "ts is beyond 2^62"),
        (event(1, "a", "b", 4 * 10**15), "time in the future"),
        (event(1, "a", "b", NOW_US, dur=-1), "dur is negative"),
        (event(-1, "a", "b", NOW_US), "id is negative"),
        (event("x", "a", "b", NOW_US), "id is no integer"),
        (event(1, "a", "b", NOW_US, pid=-7), "pid is negative"),
        (event(1, "a", "b", NOW_US, hhash=[]), "hhash is no number or text"),
        (event(1, "read", "POSIX", NOW_US, fhash={}), "fhash, ret or offset is of the wrong type"),
        (event(1, "read", "POSIX", NOW_US, fhash=1, ret="many"), "fhash, ret or offset is of the wrong type"),
        (event(900, "Bench._train", "b", NOW_US, epoch=2**31), "epoch is beyond 2^31"),
        (file_hash(None, "/x"), "file hash without a name or a value"),
        (b'{"id":1,"x":"' + b"y" * log_files.LINE_BYTES + b'"}', log_files.TOO_LONG),
    ],
)
def test_a_malformed_line_is_left_out_and_the_others_kept(pfw, line, reason):
    lines = dftracer_log(EPOCHS)
    got = load(pfw, text([*lines[:9], line, *lines[9:]]))
    assert windows(got.trace) == PATHS
    (finding,) = got.report.findings
    assert (finding.reason, finding.kept, finding.count) == (reason, False, 1)
    assert (finding.examples[0].file, finding.examples[0].where) == ("trace.pfw", "line 11")


def test_a_repeated_event_counts_once(tmp_path):
    lines = dftracer_log(EPOCHS)
    (tmp_path / "a.pfw").write_bytes(text(lines))
    (tmp_path / "b.pfw").write_bytes(text([lines[6], lines[-2]]))
    got = import_trace(tmp_path)
    assert windows(got.trace) == PATHS
    (finding,) = got.report.findings
    assert (finding.reason, finding.count) == (REPEATED, 2)
    assert [(example.file, example.where) for example in finding.examples] == [("b.pfw", "line 2"), ("b.pfw", "line 3")]


def test_aggregated_records_are_named(pfw):
    line = b'{"name":"read","cat":"POSIX","ph":3,"pid":7,"tid":7,"ts":1,"args":{"dft_cnt":2}}'
    got = load(pfw, text([*dftracer_log(EPOCHS), line]))
    assert reasons(got.report, kept=True) == {AGGREGATED: 1}


def test_a_sample_before_any_file_is_left_out(pfw):
    early = event(900, "NPZReader.get_sample", "reader", NOW_US - 5, 1)
    got = load(pfw, text([*dftracer_log(EPOCHS), early]))
    assert windows(got.trace) == PATHS
    assert reasons(got.report) == {NO_FILE: 1}


def test_a_request_between_epochs_counts_to_the_one_before_it(pfw):
    lines = dftracer_log(EPOCHS)
    ends = [json.loads(line) for line in lines if b"_train" in line]
    late = event(901, "NPZReader.get_sample", "reader", ends[0]["ts"] + ends[0]["dur"] + 5, 1)
    got = load(pfw, text([*lines, late]))
    assert windows(got.trace) == [[*PATHS[0], PATHS[0][-1]], PATHS[1]]
    assert reasons(got.report, kept=True) == {BETWEEN: 1}


def test_a_process_without_epochs_of_its_own_is_in_those_of_the_others(tmp_path):
    (tmp_path / "a.pfw").write_bytes(text(dftracer_log(EPOCHS)))
    worker = [line for line in dftracer_log([[9], [9]], pid=8) if b"_train" not in line]
    (tmp_path / "b.pfw").write_bytes(text(worker))
    got = import_trace(tmp_path)
    assert [sorted(files) for files in windows(got.trace)] == [
        sorted([*PATHS[0], "/data/f9", "/data/f9"]),
        sorted(PATHS[1]),
    ]  # the worker's second sample lies, by time, in the other's longer first epoch


def test_clocks_that_differ_are_reported_and_epochs_still_right(tmp_path):
    for pid, shift in ((7, 0), (8, 5_000_000), (9, 11)):
        (tmp_path / f"{pid}.pfw").write_bytes(text(dftracer_log(EPOCHS, pid, shift)))
    got = import_trace(tmp_path)
    assert [sorted(files) for files in windows(got.trace)] == [sorted(files * 3) for files in PATHS]
    (finding,) = got.report.findings
    assert (finding.reason, finding.count) == (SKEWED, 1)
    assert (finding.examples[0].where, finding.examples[0].value) == ("pid 8", "+5.000 s")


def test_a_rank_that_vanished_is_named(tmp_path):
    (tmp_path / "a.pfw").write_bytes(text(dftracer_log(EPOCHS)))
    lines = dftracer_log(EPOCHS, pid=8)
    (tmp_path / "b.pfw").write_bytes(text(lines[: len(lines) // 2])[:-20])
    got = import_trace(tmp_path)
    assert reasons(got.report) == {NO_JSON: 1}
    assert reasons(got.report, kept=True) == {UNFINISHED: 1}
    assert windows(got.trace)[1] == PATHS[1]


def test_a_rank_that_lacks_an_epoch_or_events_is_named(tmp_path):
    (tmp_path / "a.pfw").write_bytes(text(dftracer_log(EPOCHS)))
    (tmp_path / "b.pfw").write_bytes(text(dftracer_log(EPOCHS[:1], pid=8)))
    (tmp_path / "c.pfw").write_bytes(
        text([line for line in dftracer_log(EPOCHS, pid=9) if b"open" not in line and b'"FH"' not in line])
    )
    got = import_trace(tmp_path)
    assert reasons(got.report, kept=True) == {ABSENT: 1, MISSING: 1}


def test_an_archive_cut_short_gives_what_is_in_front_of_the_cut(tmp_path):
    raw = gzip.decompress(DLIO.read_bytes())
    for name, content in (("a.tar", raw[: len(raw) * 3 // 4]), ("b.tar.gz", DLIO.read_bytes()[:60_000])):
        got = load(tmp_path / name, content)
        assert 100 < len(got.trace.objects) < 200
        assert got.report.count(log_files.CUT_SHORT) >= 1
        assert (got.trace.history().counts <= 1).all()


def test_a_file_that_is_no_archive_is_reported(tmp_path):
    with pytest.raises(LogError, match="no valid request"):
        load(tmp_path / "a.tar", b"nothing of the kind" * 100)


def test_last_before_is_the_last_of_the_group_that_is_not_later():
    rng = np.random.default_rng(2)
    groups, asking = rng.integers(0, 4, 60), rng.integers(0, 5, 80)
    times, moments = rng.permutation(200)[:60], rng.integers(0, 200, 80)
    expected = []
    for group, moment in zip(asking, moments, strict=True):
        known = [(t, i) for i, (g, t) in enumerate(zip(groups, times, strict=True)) if g == group and t <= moment]
        expected.append(max(known)[1] if known else -1)
    assert last_before(groups, times, asking, moments).tolist() == expected
    none = np.empty(0, np.int64)
    assert last_before(none, none, asking, moments).tolist() == [-1] * 80
    assert last_before(groups, times, none, none).tolist() == []
