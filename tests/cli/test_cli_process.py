"""The command line as a process: help, exit codes, Ctrl-C and pipes; and the chain by `foreshard reshard`."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_world import ROOT, make_place, run, start
from typer.main import get_command

from foreshard.cli.app import app

sys.path.append(str(Path(__file__).parents[1] / "chain"))
from chain_world import make_world, open_chain, prepared_chain

COMMANDS = ["status", "history", "inspect", "verify", "rebuild", "diff", "gc", "doctor", "reshard", "forecast"]


def test_there_are_exactly_these_commands():
    assert sorted(get_command(app).commands) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_gives_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert re.search(rf"^ *foreshard {command}\b", result.stdout.partition("Examples:")[2], re.MULTILINE)


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from foreshard.cli.app import app; from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([name for name in ('pyarrow', 'numpy', 'obstore', 'pandas', 'dagster') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_are_a_line_on_standard_error(tmp_path):
    with start("status", "--config", str(tmp_path / "none.yaml")) as process:
        out, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_closed_pipe_is_no_error_to_talk_about(tmp_path):
    place = make_place(tmp_path)
    with place.start("gc", "--list", "--keep-generations", "1", "--keep-hours", "0", "--orphan-hours", "0") as process:
        process.stdout.close()  # as `| head` does
        assert process.stderr.read() == ""
        process.wait(60)


def test_output_without_a_terminal_is_plain_and_unbroken(tmp_path):
    place = make_place(tmp_path)
    with place.start("verify", "--all") as process:
        out, error = process.communicate(timeout=60)
    assert error == ""
    assert "\x1b" not in out
    assert [line for line in out.splitlines() if line.startswith(str(place.second))]


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_ctrl_c_ends_a_rebuild_quietly_and_leaves_nothing(tmp_path, executor):
    place = make_place(tmp_path, rows=60_000)
    folder = tmp_path / "spool"
    folder.mkdir()
    options = ["--spool", str(folder), "--executor", executor]
    with place.start("rebuild", str(place.first), *options, start_new_session=True) as process:
        limit = time.monotonic() + 60
        while not list(folder.glob("foreshard-rebuild-*/data/shards/*/*.arrow")):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert error == ""
    assert list(folder.iterdir()) == []


def test_reshard_makes_and_publishes_a_generation(tmp_path):
    path = make_world(tmp_path)
    prepared_chain(path)
    result = run("reshard", "demo.e000000", "--config", str(path))
    assert result.exit_code == 0, result.output
    assert "publish" in result.stdout
    current = open_chain(path).repository.current()
    assert current.ref.generation == "demo.e000000"
    assert run("verify", "--config", str(path)).exit_code == 0
    assert run("rebuild", "--config", str(path)).exit_code == 0


def test_reshard_refuses_a_malformed_generation():
    result = run("reshard", "demo.4")
    assert result.exit_code == 1
    assert "'demo.4'" in result.stderr
