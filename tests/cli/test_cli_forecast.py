"""`foreshard forecast` tells what a log says of the next accesses, honestly, and writes it all or nothing."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cli_world import ROOT, run, start

from foreshard.forecast.outputs import FILES, PINS, PLOTS, RANKED_SCHEMA

DATA = Path(__file__).parents[1] / "data" / "forecast"
DLIO, WEB = DATA / "show_dlio.tar.gz", DATA / "show_web12.parquet"
QUICK = ("--models", "last,ewma,ensemble")


def told(*arguments: str) -> dict:
    result = run("forecast", *map(str, arguments), *QUICK, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def write_csv(path: Path, rows: list[tuple], header: str = "epoch,object") -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return path


def popular(path: Path, *, epochs: int = 10, objects: int = 40, seed: int = 0) -> Path:
    """A log in which object i is wanted in proportion to 1 / (i + 1), every epoch."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, objects + 1)
    rows = [(e, f"part-{i}") for e in range(epochs) for i in rng.choice(objects, 400, p=share / share.sum())]
    return write_csv(path, rows)


# -- what it says --------------------------------------------------------------------------------------


def test_shuffled_epochs_of_a_real_loader_are_not_forecast_but_kept():
    found = told(DLIO)
    assert found["regime"]["kind"] == "uniform"
    assert found["policy"] == "keep"
    by_name = {row["policy"]: row["hit_rate"] for row in found["policies"]}
    assert by_name["keep"] == found["best_possible_hit_rate"] == pytest.approx(0.1)
    assert by_name["lru"] == 0
    assert (found["log"]["requests"], found["log"]["objects"], found["log"]["windows"]) == (800, 160, 5)


def test_where_there_is_nothing_to_predict_no_ranking_is_shown():
    result = run("forecast", str(DLIO), *QUICK)
    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    assert "There is nothing to predict" in shown
    assert "Keep what is in memory and evict nothing." in shown
    assert "What comes next" not in shown
    assert "use that order" in shown


def test_page_views_of_a_real_shop_are_ranked_with_evidence():
    found = told(WEB, "--top", "7", "--windows", "12")
    assert found["log"]["windows"] == 12
    assert [row["rank"] for row in found["ranking"]] == list(range(7))
    expected = [row["expected"] for row in found["ranking"]]
    assert expected == sorted(expected, reverse=True)
    assert all(row["lower"] <= row["expected"] <= row["upper"] for row in found["ranking"])
    scores = {row["model"]: row for row in found["backtest"]}
    assert scores["ewma"]["hit_mass"] > scores["last"]["hit_mass"]
    assert {"last_01", "last_platt"} <= set(scores)  # the baselines
    assert found["model"] in QUICK[1].split(",")
    hits = {row["policy"]: row["hit_rate"] for row in found["policies"]}
    assert hits[found["policy"]] >= max(hits["lru"], hits["s3-fifo"], hits["sieve"])
    assert hits[found["policy"]] < found["best_possible_hit_rate"] < 1


def test_the_hottest_objects_of_a_known_log_come_first_with_their_names(tmp_path):
    found = told(popular(tmp_path / "log.csv"), "--cache-fraction", "0.2", "--top", "3")
    assert found["regime"]["kind"] == "popularity"
    assert [row["object"] for row in found["ranking"]] == ["part-0", "part-1", "part-2"]
    share = 1 / np.arange(1, 41)
    for row, rate in zip(found["ranking"], 400 * share / share.sum(), strict=False):
        assert row["lower"] < rate < row["upper"]
        assert row["probability"] > 0.95


@pytest.mark.parametrize("suffix", ["oracleGeneral", "lis"])
def test_block_logs_are_forecast_too(tmp_path, suffix):
    share = 1 / np.arange(1, 41)
    pages = np.random.default_rng(0).choice(40, 4_000, p=share / share.sum()).tolist()
    path = tmp_path / f"log.{suffix}"
    if suffix == "lis":
        path.write_text("".join(f"{page} 1 0 {number}\n" for number, page in enumerate(pages)), encoding="utf-8")
    else:
        path.write_bytes(b"".join(struct.pack("<IQIq", at, page, 512, -2) for at, page in enumerate(pages)))
    found = told(path, "--cache-fraction", "0.2", "--top", "3")
    assert (found["log"]["format"], found["log"]["requests"], found["log"]["windows"]) == (suffix.lower(), 4_000, 24)
    assert [row["object"] for row in found["ranking"]] == ["0", "1", "2"]


def test_the_help_names_all_formats():
    from foreshard.access.importers import FORMATS

    shown = " ".join(run("forecast", "--help").output.replace("│", " ").split())
    assert all(name in shown for name in FORMATS)
    assert "gzip or zstd" in shown


def test_what_an_object_is_may_be_said(tmp_path):
    rows = [(epoch, f"{i % 5:02d}" if i % 2 else f"{i % 5}") for epoch in range(4) for i in range(20)]
    path = write_csv(tmp_path / "log.csv", rows)
    half = ("--cache-fraction", "0.5")
    assert told(path, *half)["log"]["objects"] == 5
    assert told(path, *half, "--object-type", "text")["log"]["objects"] == 10
    pages = tmp_path / "log.lis"
    pages.write_text("".join(f"{page % 64} 1 0 {page}\n" for page in range(640)), encoding="utf-8")
    assert told(pages, *half, "--extent", "16")["log"]["objects"] == 4
    assert told(DLIO, "--requests", "samples")["log"]["requests"] == 800
    result = run("forecast", str(path), "--object-type", "number")
    assert result.exit_code == 1
    assert "object_type 'number' is unknown" in " ".join(result.output.split())


def test_phases_tell_by_when_an_object_is_due(tmp_path):
    rows = [(epoch, f"{i:02d}") for epoch in range(8) for i in range(40)]  # read in the same order in every epoch
    found = told(write_csv(tmp_path / "log.csv", rows), "--phases", "4", "--cache-fraction", "0.25")
    assert found["log"]["phases_per_epoch"] == 4
    assert found["regime"]["kind"] == "seasonal"
    assert len(found["ranking"]) == 20
    assert all(row["first_phase"] == int(row["object"]) // 10 for row in found["ranking"])


def test_the_tables_say_what_was_read_chosen_and_advised(tmp_path):
    path = popular(tmp_path / "log.csv")
    path.write_text(path.read_text(encoding="utf-8") + "soon,part-1\n3,\n", encoding="utf-8")
    result = run("forecast", str(path), *QUICK, "--top", "4")
    assert result.exit_code == 0
    assert result.stderr == ""
    for title in ("What was read", "How it is read", "How well it can be", "What comes next", "What to keep in memory"):
        assert title in result.stdout
    assert re.search(r"requests +4,000 for 40 objects", result.stdout)
    assert re.search(r"left out +2 records", result.stdout)
    assert "line 4002: soon,part-1" in result.stdout
    assert re.search(r"^ +1 +part-0 ", result.stdout, re.MULTILINE)
    assert len(re.findall(r"^ +\d+ +part-\d+ ", result.stdout, re.MULTILINE)) == 4
    assert re.search(r"^ +MIN ", result.stdout, re.MULTILINE)


# -- what it writes ------------------------------------------------------------------------------------


def test_the_folder_holds_everything_and_the_same_again(tmp_path):
    path = popular(tmp_path / "log.csv")
    path.write_text(path.read_text(encoding="utf-8") + "soon,part-1\n", encoding="utf-8")
    for name in ("one", "two"):
        result = run("forecast", str(path), *QUICK, "--out", str(tmp_path / name))
        assert result.exit_code == 0, result.output
    one = {each.name: each.read_bytes() for each in (tmp_path / "one").iterdir()}
    assert set(one) == FILES
    assert one == {each.name: each.read_bytes() for each in (tmp_path / "two").iterdir()}
    ranked = pq.read_table(tmp_path / "one" / "ranked.parquet")
    assert ranked.schema == RANKED_SCHEMA
    assert sorted(ranked.column("object").to_pylist()) == sorted(f"part-{i}" for i in range(40))
    assert "hit_mass" in pq.read_schema(tmp_path / "one" / "scores.parquet").names
    assert json.loads(one["import.json"])["left_out"] == 1
    assert [json.loads(line)["where"] for line in one["quarantine.jsonl"].splitlines()] == ["line 4002"]
    policy = json.loads(one["policy.json"])
    assert policy["policy"] in {row["policy"] for row in policy["windows"]}
    page = one["report.html"].decode()
    assert page.count('src="data:image/png;base64,') == len(PLOTS)
    assert "part-0" in page


def test_without_plots_there_are_none(tmp_path):
    out = tmp_path / "out"
    assert run("forecast", str(DLIO), *QUICK, "--out", str(out), "--no-plots").exit_code == 0
    assert {each.name for each in out.iterdir()} == FILES - {*PLOTS, PINS}
    assert "<img" not in (out / "report.html").read_text(encoding="utf-8")


def test_an_older_output_is_replaced_by_force_only(tmp_path):
    out = tmp_path / "out"
    assert run("forecast", str(DLIO), *QUICK, "--out", str(out)).exit_code == 0
    refused = run("forecast", str(WEB), *QUICK, "--out", str(out))
    assert refused.exit_code == 1
    assert "--force" in refused.stderr
    assert json.loads((out / "import.json").read_text(encoding="utf-8"))["format"] == "dftracer"
    assert run("forecast", str(WEB), *QUICK, "--out", str(out), "--force", "--no-plots").exit_code == 0
    assert json.loads((out / "import.json").read_text(encoding="utf-8"))["format"] == "parquet"
    assert {each.name for each in out.iterdir()} == FILES - set(PLOTS)


def test_names_from_a_log_are_shown_but_never_obeyed(tmp_path):
    evil = ["<script>alert(1)</script>", "\x1b[31mred", "[bold]x[/bold]"]
    path = write_csv(
        tmp_path / "log.csv",
        [(epoch, name) for epoch in range(6) for i, name in enumerate(evil) for _ in range(5 * i + 1)],
    )
    result = run("forecast", str(path), *QUICK, "--out", str(tmp_path / "out"), "--cache-fraction", "0.5")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "\x1b" not in page
    names = pq.read_table(tmp_path / "out" / "ranked.parquet").column("object").to_pylist()
    assert sorted(names) == sorted(evil)


# -- what it refuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.csv"], ["'nowhere.csv'", "name a file"]),
        (["log.csv", "--format", "xlsx"], ["'xlsx'", "csv", "dftracer"]),
        (["log.unknown"], ["log.unknown", "format", "csv"]),
        (["log.csv", "--windows", "900"], ["900", "40 requests"]),
        (["log.csv", "--windows", "2"], ["2 windows", "--windows"]),
        (["log.csv", "--phases", "90"], ["90 phases"]),
        (["short.csv"], ["6 valid requests", "10"]),
        (["empty.csv"], ["no valid request"]),
        (["log.csv", "--cache-fraction", "0"], ["--cache-fraction 0.0", "0.1"]),
        (["log.csv", "--cache-fraction", "nan"], ["--cache-fraction nan"]),
        (["log.csv", "--models", "last,oracle"], ["oracle", "ewma"]),
        (["log.csv", "--models", ","], ["choose distinct ones"]),
        (["log.csv", "--object-column", "page"], ["'page'"]),
        (["log.csv", "--out", "log.csv"], ["log.csv", "not a folder"]),
    ],
)
def test_what_cannot_be_answered_is_an_error_of_one_line_that_names_it(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    for name, epochs in (("log.csv", 4), ("log.unknown", 4), ("short.csv", 1)):
        write_csv(
            Path(name), [(epoch, name) for epoch in range(epochs) for name in "abcdeabcde"[: 10 if epochs > 1 else 6]]
        )
    Path("empty.csv").write_bytes(b"")
    before = sorted(each.name for each in tmp_path.iterdir())
    result = run("forecast", *arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == before


def test_a_run_as_a_process_is_quiet_on_standard_error(tmp_path):
    with start("forecast", str(DLIO), *QUICK, "--json", "--out", str(tmp_path / "out")) as process:
        out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert error == ""
    assert json.loads(out)["out"] == str(tmp_path / "out")


def test_ctrl_c_ends_it_quietly_and_leaves_nothing(tmp_path):
    log = popular(tmp_path / "log.csv", epochs=200)
    spool = tmp_path / "spool"
    spool.mkdir()
    environment = {**os.environ, "TMPDIR": str(spool)}
    command = [sys.executable, "-m", "foreshard.cli", "forecast", str(log), "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True) as process:
        limit = time.monotonic() + 60
        while not list(spool.glob("foreshard-forecast-*/quarantine")):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (130, "", "")
    assert list(spool.iterdir()) == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["log.csv", "spool"]


def test_the_report_says_which_columns_were_used(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("id,timestamp,path\n" + "".join(f"{n % 40},{n},p{n % 5}\n" for n in range(400)))
    done = run("forecast", str(log), *QUICK)
    assert done.exit_code == 0
    assert "object from id, time from timestamp" in done.output
    told = json.loads(run("forecast", str(log), *QUICK, "--json").output)
    assert told["log"]["columns"] == {"object": "id", "time": "timestamp"}
