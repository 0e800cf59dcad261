"""What every benchmark rests on: rounds in turn, ratios of medians, honest memory, and the closing JSON line."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import Figure, finish, interleave, parse_options, ratio, run_fresh


def test_contenders_run_in_turn_and_their_first_runs_do_not_count():
    calls = []

    def run(name):
        calls.append(name)
        return float(len(calls))

    seconds = interleave({"a": lambda: run("a"), "b": lambda: run("b")}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert seconds == {"a": [3.0, 5.0, 7.0], "b": [4.0, 6.0, 8.0]}


def test_a_ratio_is_that_of_medians_and_its_spread_that_of_single_rounds():
    found = ratio([6.0, 8.0, 100.0], [2.0, 4.0, 4.0])
    assert (found.median, found.low, found.high) == (2.0, 2.0, 25.0)


def test_the_peak_of_a_fresh_process_leaves_out_the_memory_of_its_parent():
    held = np.ones(60_000_000)
    fresh = run_fresh("import_only")
    assert 20 < fresh.peak_rss_mb < held.nbytes / 1e6 - 100


def test_a_task_that_fails_in_its_process_fails_the_benchmark(capfd):
    with pytest.raises(subprocess.CalledProcessError):
        run_fresh("open_layout", "memory://", "demo.e000000", "0" * 16)
    assert "is not committed" in capfd.readouterr().err


def test_the_last_line_is_json_of_every_figure_and_goes_to_the_file_as_well(tmp_path, capsys):
    options = parse_options("demo", "about", ["--quick", "--json", str(tmp_path / "figures.json")])
    figures = [Figure("speed", 3.14159, 3.0, at_least=True), Figure("bytes", None, 1.1, at_least=False)]
    finish(options, figures, {"more": 1})
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["speed"], last["bytes"], last["more"], last["quick"]) == (3.1416, None, 1, True)
    assert {"cores", "numpy", "load"} <= last["environment"].keys()
    assert json.loads(Path(tmp_path / "figures.json").read_text()) == last


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [(3.0, True, True), (2.9, True, False), (3.0, False, True), (3.1, False, False), (None, False, False)],
)
def test_a_target_is_a_floor_or_a_ceiling_and_unmeasured_is_unmet(value, at_least, met):
    assert Figure("figure", value, 3.0, at_least=at_least).met is met


def test_the_cpu_time_of_a_fresh_process_holds_that_of_its_imports():
    assert 0.05 < run_fresh("import_only").cpu_s < 60
