"""Imports libCacheSim's oracleGeneral: records of 24 bytes, little-endian, without a header.

A record is time (u32, seconds), object id (u64), size (u32, bytes) and the number of the object's next request (i64;
-1 if there is none, -2 if it is not known). Source: libCacheSim, traceReader/customizedReader/oracle.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

import numpy as np
import pyarrow as pa

from foreshard.access.importers.collect import Collector
from foreshard.access.importers.files import LogFile, open_log, read_blocks
from foreshard.access.importers.options import Options
from foreshard.access.importers.report import Quarantine
from foreshard.access.importers.times import OUT_OF_ORDER, Clock

RECORD: Final = np.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])
TRUNCATED: Final = "record cut short"
UNKNOWN_NEXT: Final = -2
NO_NEXT: Final = "next request below -2"


def import_oracle(
    files: Sequence[LogFile], options: Options, collector: Collector, quarantine: Quarantine
) -> dict[str, str]:
    """Read oracleGeneral files, in order.

    Raises:
        LogError: a file cannot be read.
    """
    del options  # there are none
    clock = Clock()
    for log in files:
        with ExitStack() as stack:
            carry, first = b"", 0
            for read in read_blocks(open_log(log, stack, quarantine), quarantine, log.name):
                whole = carry + read
                end = len(whole) - len(whole) % RECORD.itemsize
                records = np.frombuffer(whole[:end], RECORD)
                _add(records, first, log.name, clock, collector, quarantine)
                first, carry = first + len(records), whole[end:]
            if carry:
                quarantine.drop(TRUNCATED, log.name, f"byte {first * RECORD.itemsize}", carry.hex(" "))
    return {}


def _add(
    records: np.ndarray, first: int, file: str, clock: Clock, collector: Collector, quarantine: Quarantine
) -> None:
    times = np.asarray(records["time"], np.int64)
    bad = np.zeros(len(records), bool)
    checked = clock.check(times)
    for reason, mask in (*checked.faults, (NO_NEXT, np.asarray(records["next"] < UNKNOWN_NEXT, bool))):
        for row in np.flatnonzero(mask & ~bad).tolist():
            quarantine.drop(reason, file, f"record {first + row}", records[row].item())
        bad |= mask
    for reason, mask in checked.odd:
        for row in np.flatnonzero(mask & ~bad)[:1].tolist():
            count = int(np.count_nonzero(mask & ~bad))
            quarantine.note(reason, file, f"record {first + row}", records[row].item(), count=count)
    good = np.flatnonzero(~bad)
    sizes = np.asarray(records["size"], np.int64)
    late = collector.add(pa.array(records["id"][good]), times[good], None, sizes[good])
    if len(late):
        row = int(good[late[0]])
        quarantine.note(OUT_OF_ORDER, file, f"record {first + row}", records[row].item(), count=len(late))
