"""Locks whose files go with their holders: nobody gets in twice, and nothing stays behind."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from foreshard.errors import DeadlineError
from foreshard.local import LOCKS, exclusive
from foreshard.locking import open_file, passing_lock, try_lock
from foreshard.storage import ObjectStore

DEADLINE_S = 60


def _count(folder, rounds):
    """Raise a number in a file, which loses some if two do it at a time."""
    number = folder / "number"
    for _ in range(rounds):
        with passing_lock(folder / "lock", DEADLINE_S):
            found = int(number.read_text())
            if found % 7 == 0:
                time.sleep(0.0002)  # others come to wait
            number.write_text(str(found + 1))


def _hold(folder, forever):
    with passing_lock(folder / "lock", DEADLINE_S):
        (folder / "held").touch()
        time.sleep(forever)


def start(work, *args):
    process = multiprocessing.get_context("spawn").Process(target=work, args=args, daemon=True)
    process.start()
    return process


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock."""
    process = start(_hold, tmp_path, 600)
    deadline = time.monotonic() + DEADLINE_S
    while not (tmp_path / "held").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield process
    process.kill()
    process.join(DEADLINE_S)


def test_processes_and_threads_never_hold_a_lock_together_though_its_file_comes_and_goes(tmp_path):
    (tmp_path / "number").write_text("0")
    processes = [start(_count, tmp_path, 300) for _ in range(3)]
    workers = [threading.Thread(target=_count, args=(tmp_path, 300)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in (*processes, *workers):
        worker.join(DEADLINE_S)
    assert [process.exitcode for process in processes] == [0] * 3
    assert (tmp_path / "number").read_text() == "1800"
    assert not (tmp_path / "lock").exists()


def test_the_lock_of_a_killed_process_is_taken_over_and_its_file_removed(tmp_path, holder):
    waiting = threading.Thread(target=_count, args=(tmp_path, 1))
    (tmp_path / "number").write_text("0")
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive(), "it waits for the holder"
    holder.kill()
    waiting.join(DEADLINE_S)
    assert (tmp_path / "number").read_text() == "1"
    assert not (tmp_path / "lock").exists()


def test_a_stopped_holder_is_waited_for_until_the_deadline_and_named(tmp_path, holder):
    os.kill(holder.pid, signal.SIGSTOP)
    with (
        pytest.raises(DeadlineError, match=r"lock '.*/lock' was held by others for 0.1 s"),
        passing_lock(tmp_path / "lock", 0.1),
    ):
        pytest.fail("somebody else holds it")
    assert (tmp_path / "lock").exists(), "who does not hold it does not remove it"


def test_a_forked_child_that_lives_on_keeps_nobody_out_whenever_they_came(tmp_path):
    with passing_lock(tmp_path / "lock", DEADLINE_S):
        waiting = open_file(tmp_path / "lock")
        assert not try_lock(waiting)
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
            os._exit(0)
    try:
        assert try_lock(waiting), "who waits already, for a file that is gone now, gets to know that"
        with passing_lock(tmp_path / "lock", 5):
            pass
    finally:
        os.close(waiting)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_swaps_of_ever_new_objects_leave_no_lock_behind(tmp_path):
    store = ObjectStore.open(tmp_path.as_uri())
    for i in range(20):
        store.swap(f"lease-{i}", b"1", None)
        store.swap(f"lease-{i}", b"2", store.get_tagged(f"lease-{i}")[1])
    assert list((tmp_path / LOCKS).iterdir()) == []


def test_killed_processes_leave_a_bounded_number_of_locks(tmp_path):
    seen = set()
    for i in range(1000):
        with exclusive(tmp_path, f"lease-{i}"):
            seen |= {path.name for path in (tmp_path / LOCKS).iterdir()}
    assert 200 < len(seen) <= 256
