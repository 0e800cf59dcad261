"""Logs larger than memory: what is kept is four bytes a request, and no line is ever held whole because it is long."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from foreshard.access.importers.files import LINE_BYTES, TOO_LONG, line_blocks
from foreshard.access.importers.oracle import RECORD
from foreshard.access.importers.report import Quarantine

PEAK = """
import resource, sys
from foreshard.access.importers import import_trace
got = import_trace(sys.argv[1], format=sys.argv[2])
print(len(got.trace.objects), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak(path, kind):
    """Import a log in a process of its own and return (requests, bytes of its largest resident set)."""
    run = subprocess.run([sys.executable, "-c", PEAK, str(path), kind], capture_output=True, text=True, check=True)
    return tuple(map(int, run.stdout.split()))


def oracle_file(path, count):
    records = np.zeros(count, RECORD)
    records["time"] = np.arange(count) // 1000
    records["id"] = np.random.default_rng(1).integers(0, 5000, count)
    records["size"], records["next"] = 4096, -1
    records.tofile(path)


def csv_file(path, count):
    keys = np.random.default_rng(1).integers(0, 5000, count)
    path.write_bytes(b"time,key\n" + b"".join(b"%d,%d\n" % (1_700_000_000 + i, k) for i, k in enumerate(keys.tolist())))


def lis_file(path, count):
    pages = np.random.default_rng(1).integers(0, 5000, count)
    path.write_bytes(b"".join(b"%d 1 0 %d\n" % (page, i) for i, page in enumerate(pages.tolist())))


@pytest.mark.parametrize(
    ("kind", "write", "count"),
    [("oraclegeneral", oracle_file, 6_000_000), ("csv", csv_file, 2_500_000), ("lis", lis_file, 3_500_000)],
)
def test_memory_grows_by_the_trace_alone(tmp_path, kind, write, count):
    write(tmp_path / "large", count)
    write(tmp_path / "small", 500_000)
    requests, large = peak(tmp_path / "large", kind)
    assert requests == count
    growth = large - peak(tmp_path / "small", kind)[1]
    # Kept are 4 bytes a request; a second copy is made where they are read back, and allocators round up.
    assert growth < 2 * 4 * count + (24 << 20)
    assert growth < (tmp_path / "large").stat().st_size / 2 + (24 << 20)


class Endless:
    """A line of that many bytes between two short ones."""

    def __init__(self, length):
        self._pieces = [b"1\n", *[b"7" * (4 << 20)] * (length >> 22), b"\n2\n"]
        self._pieces.reverse()

    def read(self, size, /):
        assert size
        return self._pieces.pop() if self._pieces else b""


def test_a_line_of_10_gb_is_passed_over_in_the_memory_of_a_short_one():
    quarantine = Quarantine()
    tracemalloc.start()
    try:
        lines = list(line_blocks(Endless(10 << 30), quarantine, "log.csv"))
        largest = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert b"".join(block for _, block in lines).split() == [b"1", b"2"]
    assert lines[-1] == (2, b"\n2\n")
    (finding,) = quarantine.findings()
    assert (finding.reason, finding.count, finding.examples[0].where) == (TOO_LONG, 1, "line 2")
    assert largest < 24 << 20
    assert largest > LINE_BYTES
