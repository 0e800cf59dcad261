"""Small logs in every format that is imported, for the tests of the importers."""

import json

import numpy as np

from foreshard.access.importers import import_trace
from foreshard.access.importers.oracle import RECORD

NOW_US = 1_760_000_000_000_000


def asked(imported):
    """Return what every request asked for, in the order of the trace."""
    return imported.trace.names[imported.trace.objects].tolist()


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def load(path, content, **options):
    return import_trace(write(path, content), **options)


def reasons(report, *, kept=False):
    return {finding.reason: finding.count for finding in report.findings if finding.kept is kept}


def oracle_record(time, number, size=1, following=-1):
    return np.array([(time, number, size, following)], RECORD).tobytes()


def event(number, name, category, ts, dur=1, pid=7, tid=7, **args):
    raw = {"id": number, "name": name, "cat": category, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "ph": "X"}
    return json.dumps(raw | {"args": args}).encode()


def file_hash(value, path, pid=7):
    args = {"name": path, "value": value}
    return json.dumps(
        {"id": 0, "name": "FH", "cat": "dftracer", "pid": pid, "tid": 7, "ph": "M", "args": args}
    ).encode()


def dftracer_log(epochs, pid=7, shift=0):
    """Return the lines of one process that reads these files (numbers) in these epochs, one a microsecond times 100.

    Every sample is an opening, two reads, and the sample itself, which ends after them.
    """
    lines, number, now = [], 1, NOW_US + shift
    lines += [file_hash(100 + f, f"/data/f{f}", pid) for f in sorted({f for files in epochs for f in files})]
    for epoch, files in enumerate(epochs, 1):
        begin = now
        for f in files:
            for name, extra in (("open", {}), ("pread", {"offset": 0}), ("pread", {"offset": 10})):
                lines.append(event(number, name, "POSIX", now + 10, pid=pid, tid=pid, fhash=100 + f, ret=10, **extra))
                number, now = number + 1, now + 20
            size = {"image_size": str(20 + f), "epoch": "-1"}
            lines.append(event(number, "NPZReader.get_sample", "reader", now - 60, 65, pid=pid, tid=pid, **size))
            number, now = number + 1, now + 40
        lines.append(event(number, "Bench._train", "bench", begin, now - begin, pid=pid, tid=pid, epoch=str(epoch)))
        number, now = number + 1, now + 1000
    lines.append(event(number, "end", "dftracer", now, pid=pid, tid=pid, num_events=number))
    return lines
