"""What `benchmarks.loader_peers` runs in processes of their own: an epoch, tuning runs, and plain parallel GETs."""

import atexit
import faulthandler
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from benchmarks.peers_contenders import CONTENDERS, Run
from benchmarks.peers_data import DATASET, checksums

DEADLINE_S: Final = 240
"""A run that takes longer hangs: its process writes where it does and ends."""

_RANGE_BYTES: Final = 8 << 20
_GET_THREADS: Final = (2, 4, 8)


def read_epoch(run: str) -> dict[str, Any]:
    """Read an epoch and return what it took; `{"error": ...}` if the contender failed.

    Seconds count from asking for the first batch to having the last one (with an accelerator: to its having used it).
    CPU seconds are those of the process and its children from the same moment until the loader is closed.
    """
    faulthandler.dump_traceback_later(DEADLINE_S, exit=True)
    try:
        return _read(Run(**json.loads(run)))
    except Exception as error:  # noqa: BLE001 - that a contender fails is a result, shown in the table
        traceback.print_exc()
        *_, last = str(error).strip().splitlines() or [""]  # an error from a worker begins with its traceback
        return {"error": f"{type(error).__name__}: {last}"}
    finally:
        faulthandler.cancel_dump_traceback_later()


def _read(run: Run) -> dict[str, Any]:
    contender = CONTENDERS[run.contender]
    with tempfile.TemporaryDirectory(dir=run.caches, ignore_cleanup_errors=True) as folder:
        moments = [time.perf_counter()]
        contender.load()
        moments.append(time.perf_counter())
        batches = contender.open(run, Path(folder))
        moments.append(time.perf_counter())
        cpu = _cpu_seconds()
        answer = _consume(batches, run)
        del batches  # ends workers, whose CPU time counts from then on
        return {
            **answer,
            "cpu_s": _cpu_seconds() - cpu,
            "import_s": moments[1] - moments[0],
            "open_s": moments[2] - moments[1],
        }


def _consume(batches: Iterable[Any], run: Run) -> dict[str, Any]:
    """Look at every batch, in the same way whoever it comes from, and keep the emulated accelerator busy with it."""
    rows, slept, first, seconds = 0, 0.0, 0.0, 0.0
    sums = np.zeros(3, np.int64)
    began = time.perf_counter()
    for columns in batches:
        first = first or time.perf_counter() - began
        count = len(columns[1]) if run.kind == "samples" else len(columns["flight"])
        rows += count
        sums += checksums(run.kind, columns)
        if run.rate is not None:
            asleep = time.perf_counter()
            time.sleep(count / run.rate)
            slept += time.perf_counter() - asleep
        seconds = time.perf_counter() - began
        if run.limit_s is not None and seconds > run.limit_s:
            break
    return {
        "rows": rows,
        "seconds": seconds,
        "first_batch_s": first,
        "utilisation": slept / seconds if seconds else 0.0,
        "sums": sums.tolist(),
        "whole": rows == run.rows,
    }


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the children that it waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


# -- tuning --------------------------------------------------------------------------------------------


def tune(runs: str) -> list[dict[str, Any]]:
    """Read epochs of one contender, each in a child process that begins with its modules loaded; return what each took.

    Importing them anew for every setting would take longer than reading.
    """
    given = [Run(**run) for run in json.loads(runs)]
    CONTENDERS[given[0].contender].load()
    context = multiprocessing.get_context("fork")
    answers: list[dict[str, Any]] = []
    for run in given:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_tuning_run, args=(json.dumps(vars(run)), theirs))
        child.start()
        theirs.close()
        try:
            answers.append(ours.recv())
        except EOFError:
            answers.append({"error": "its process ended, see above"})
        child.join()
    return answers


def _tuning_run(run: str, answer: Connection) -> None:
    answer.send(read_epoch(run))
    answer.close()
    atexit._run_exitfuncs()  # noqa: SLF001 - such a child runs none, and MosaicML would leave shared memory behind
    sys.stdout.flush()
    sys.stderr.flush()


# -- the ground ----------------------------------------------------------------------------------------


def raw_gets(url: str, endpoint: str) -> dict[str, Any]:
    """Get the whole shards of foreshard's dataset in ranges of 8 MiB, with 2, 4 and 8 threads; return the quickest."""
    import obstore
    from obstore.store import S3Store

    from foreshard.shards.repository import Repository
    from foreshard.storage import ObjectStore

    repository = Repository(ObjectStore.open(url, endpoint=endpoint), DATASET)
    current = repository.current()
    assert current is not None
    at = urlsplit(url)
    store = S3Store(
        at.netloc,
        prefix=at.path.strip("/"),
        config={"region": "us-east-1", "endpoint": endpoint},
        client_options={"allow_http": True},
    )
    ranges = [
        (shard.key, start, min(start + _RANGE_BYTES, shard.size))
        for shard in repository.open(current.ref).shards
        for start in range(0, shard.size, _RANGE_BYTES)
    ]

    def get(part: tuple[str, int, int]) -> int:
        key, start, end = part
        return len(obstore.get_range(store, key, start=start, end=end))

    answers: list[dict[str, Any]] = []
    for threads in _GET_THREADS:
        cpu, began = _cpu_seconds(), time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            total = sum(pool.map(get, ranges))
        seconds = time.perf_counter() - began
        answers.append({"seconds": seconds, "bytes": total, "threads": threads, "cpu_s": _cpu_seconds() - cpu})
    return min(answers, key=lambda answer: answer["seconds"])


def write_dataset(peer: str, kind: str, rows: str) -> str:
    """Write a peer's dataset unless it is there; return its folder."""
    from benchmarks.peers_data import dataset_folder

    os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"
    return str(dataset_folder(peer, kind, int(rows)))  # pyright: ignore[reportArgumentType]
