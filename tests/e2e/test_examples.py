"""The four training examples, run as a reader runs them: in processes of their own, each under a deadline."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch  # noqa: TID253 - reads the examples' checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.timeout(290)]

ROOT = Path(__file__).parents[2]
ROWS = 6_000
SECONDS = 120
SCORE = re.compile(r"^epoch (\d+): ([\d.]+)% of validation flights right; ([\d.]+)% by always 'on time'$", re.MULTILINE)


class Examples:
    """Runs examples that keep what they make in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # One thread each, as several processes share the machine; bytecode spares each of them seconds of imports.
        changes = {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
        self._environment = {**os.environ, **changes}
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def run(self, name: str, *arguments: str, launcher: tuple[str, ...] = ()) -> str:
        """Run an example and return what it printed."""
        command = [sys.executable, *launcher, "-m", f"examples.training.{name}", "--rows", str(ROWS), *arguments]
        printed = self.folder / "printed"
        with printed.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(SECONDS)
            except subprocess.TimeoutExpired as error:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise AssertionError(f"{name} took over {SECONDS} s:\n{printed.read_text('utf-8')}") from error
        output = printed.read_text("utf-8")
        assert code == 0, output
        for word in ("Traceback", "Warning", "leaked"):
            assert word not in output, output
        self._assert_no_process_left(name)
        return output

    def _assert_no_process_left(self, name: str) -> None:
        limit = time.monotonic() + 20
        while left := self._processes():
            assert time.monotonic() < limit, f"{name} left processes behind: {left}"
            time.sleep(0.05)

    def _processes(self) -> list[str]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.folder).encode() in (folder / "environ").read_bytes():
                    found.append(f"{folder.name} {(folder / 'cmdline').read_bytes()!r}")
            except OSError:
                continue
        return found


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return Examples(tmp_path_factory.mktemp("examples"))


def assert_learnt(output, epochs):
    """Every epoch was scored, and the last model is better than one that always says the same."""
    scores = [(int(epoch), float(right), float(ignorant)) for epoch, right, ignorant in SCORE.findall(output)]
    assert [epoch for epoch, _, _ in scores] == epochs, output
    _, right, ignorant = scores[-1]
    assert 100 > right > ignorant + 5


def hashes(output):
    """The hashes that an example prints, one after the other."""
    return re.findall(r"\b[0-9a-f]{64}\b", output)


def test_scikit_learn_learns_batch_by_batch(examples):
    output = examples.run("scikit_learn", "--epochs", "2")
    assert_learnt(output, [1, 2])
    assert "\nAltogether: 2 epochs, 36 batches, 9,216 samples, " in output


def test_torch_in_one_process_goes_on_in_the_middle_of_an_epoch(examples):
    checkpoint = examples.folder / "checkpoint.pt"
    arguments = "--epochs", "2", "--checkpoint", str(checkpoint)
    output = examples.run("torch_single", *arguments, "--stop-after", "25")
    assert_learnt(output, [1])
    loader = torch.load(checkpoint, weights_only=True)["loader"]
    assert (loader["epoch"], loader["step"]) == (2, 7)
    output = examples.run("torch_single", *arguments, "--num-workers", "0")
    assert "resuming at epoch 2, step 7\n" in output
    assert_learnt(output, [2])
    saved = torch.load(checkpoint, weights_only=True)
    assert (saved["loader"]["epoch"], saved["loader"]["step"]) == (3, 0)
    (steps,) = {int(state["step"]) for state in saved["optimizer"]["state"].values()}
    assert steps == 36


@pytest.mark.parametrize(
    "launcher",
    [(), ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")],
    ids=["by_itself", "by_torchrun"],
)
def test_ranks_together_see_the_order_of_one_process(examples, launcher):
    output = examples.run("torch_ddp", "--epochs", "1", launcher=launcher)
    assert_learnt(output, [1])
    assert "18 batches on each of 2 ranks\n" in output
    together, alone = hashes(output)
    assert together == alone


def test_a_job_that_lost_a_rank_goes_on_with_another_world_size_in_the_same_order(examples):
    output = examples.run("resume_elastic", "--kill-at", "17", "--every", "5")
    first, *others = re.findall(r"exit codes \[(.*)\]", output)
    assert first.endswith(f"-{signal.SIGKILL.value}"), output
    assert others == ["0, 0, 0"], output
    assert re.findall(r"(\d) rank\(s\) from (.*)", output) == [
        ("2", "epoch 1, step 0"),
        ("3", "epoch 1, step 15"),
        ("1", "epoch 1, step 0"),
    ]
    assert_learnt(output, [1, 2, 1, 2])
    disturbed, undisturbed = hashes(output)
    assert disturbed == undisturbed
