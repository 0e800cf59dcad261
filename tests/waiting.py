"""Waiting for what other threads and processes bring about."""

import time

DEADLINE_S = 60


def wait_until(condition):
    """Wait until a condition holds; fail if it does not in time."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)
