"""Threads end before the interpreter does, unless they hang."""

import subprocess
import sys
import time

import pytest

CODE = """
import sys, threading
from foreshard.exits import end_at_exit

class Worker:
    def __init__(self, hangs):
        self.told, self.hangs = threading.Event(), hangs
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        end_at_exit(self, self.thread)

    def run(self):
        self.told.wait()
        threading.Event().wait(60 if self.hangs else 0.3)
        sys.stdout.write("ended\\n")
        sys.stdout.flush()

    def dismiss(self):
        self.told.set()

workers = [Worker(hangs) for hangs in {hangs}]
gone = Worker(False)
gone.dismiss()
del gone  # but for its thread
{end}
"""


def run(hangs, end):
    code = CODE.replace("{hangs}", repr(hangs)).replace("{end}", end)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout.split(), done.stderr, time.monotonic() - began


@pytest.mark.parametrize(("end", "code"), [("", 0), ("sys.exit(3)", 3), ("raise KeyError('on purpose')", 1)])
def test_who_is_told_to_end_has_time_to(end, code):
    ended, said, errors, _ = run([False, False], end)
    assert (ended, said) == (code, ["ended"] * 3)
    assert ("on purpose" in errors) == (code == 1)


def test_a_thread_that_hangs_does_not_keep_the_process():
    ended, said, errors, seconds = run([True, False], "")
    assert (ended, said, errors) == (0, ["ended"] * 2, "")
    assert seconds < 30


def test_a_forked_process_has_nobody_to_wait_for():
    end = "import os\nif os.fork() == 0: sys.exit(0)\nos.wait()"
    ended, said, _, _ = run([False], end)
    assert (ended, said) == (0, ["ended"] * 2)
