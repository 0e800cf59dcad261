"""Folders for workers: they go with their owner, and with the next one's if that was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from foreshard.loader.scratch import scratch_folder

CHILD = """
import sys, time
from foreshard.loader.scratch import scratch_folder
class Owner: pass
owner = Owner()
print(scratch_folder(owner, "test"), flush=True)
time.sleep(60)
"""


class Owner:
    pass


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def age(folder):
    os.utime(folder, (0, 0))


def test_a_killed_processs_folder_goes_with_the_next_one_and_a_live_ones_stays(temporary):
    processes = [subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        killed, alive = (temporary / process.stdout.readline().strip() for process in processes)
        processes[0].send_signal(signal.SIGTERM)
        processes[0].wait(30)
        (killed / "next").write_bytes(b"state")
        for folder in (killed, alive):
            age(folder)
        mine = Owner()
        made = scratch_folder(mine, "test")
        assert {path.name for path in temporary.iterdir()} == {alive.name, made.name}
    finally:
        for process in processes:
            process.kill()
            process.wait(30)
            process.stdout.close()


def test_what_may_be_a_new_folder_or_is_no_folder_of_this_purpose_is_left_alone(temporary):
    young, other, elsewhere = (
        temporary / f"foreshard-loader-{name}" for name in ("test-young", "other-x", "test-link")
    )
    young.mkdir()
    other.mkdir()
    target = temporary / "target"
    target.mkdir()
    (target / "file").write_bytes(b"")
    elsewhere.symlink_to(target)
    for folder in (other, target):
        age(folder)
    os.utime(elsewhere, (0, 0), follow_symlinks=False)
    owner = Owner()
    scratch_folder(owner, "test")
    assert young.exists()
    assert other.exists()
    assert elsewhere.is_symlink()
    assert (target / "file").exists()


def test_another_users_folder_is_left_alone(temporary, monkeypatch):
    folder = temporary / "foreshard-loader-test-others"
    folder.mkdir()
    age(folder)
    mine = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: mine + 1)
    owner = Owner()
    scratch_folder(owner, "test")
    assert folder.exists()
    monkeypatch.undo()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    owner = Owner()
    scratch_folder(owner, "test")
    assert not folder.exists()


def test_a_folder_goes_with_its_owner_and_not_with_a_forked_childs_copy():
    owner = Owner()
    folder = scratch_folder(owner, "test")
    pid = os.fork()
    if pid == 0:
        del owner
        os._exit(0 if folder.exists() else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    before = len(list(Path("/proc/self/fd").iterdir()))
    del owner
    assert not folder.exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 1
