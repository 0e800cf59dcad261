"""Bytes that the loader fetches and hits of its memory against Belady's MIN, LRU, pinning and other loaders' policies.

Run with `make bench ARGS=loader_cache`. The loader reads a real layout of 2,000 chunks of one size in a local folder,
whose store counts what it serves. Epoch 1 warms up and is not counted. The budget of all is the same, and MIN knows the
whole trace: all epochs, and one more that the loader does not come to.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import harness, reactive, workloads
from benchmarks.harness import Figure, Options
from benchmarks.reactive import Counted, count, min_by_epoch, trace_of
from foreshard.direct import DirectReads
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import BlockShuffleOrder, Order, UniformOrder, WeightedOrder
from foreshard.prefetch.monitor import EpochStats
from foreshard.shards.manifest import Manifest
from foreshard.shards.repository import Repository
from foreshard.simulate.belady import plan_residency
from foreshard.storage import ObjectStore

_BATCH: Final = 20
_EPOCHS: Final = 5
_REPEATS: Final = 3
_STEP_S: Final = 0.001
"""Computing on each batch. Where the loop computes nothing, the loader may give cache away to keep up with it."""

_COLUMNS: Final = ("", "hits", "of MIN's", "fetched, MB an epoch", "over MIN's")


class CountedReads:
    """Reads straight into memory, and tells how much.

    Args:
        reads: reads.
        count: takes the bytes of each read that worked.
    """

    def __init__(self, reads: DirectReads, count: Callable[[int], None]) -> None:
        self._reads, self._count = reads, count

    def read(self, key: str, start: int, targets: Sequence[memoryview]) -> bool:
        """Read a range."""
        done = self._reads.read(key, start, targets)
        self._count(done * sum(map(len, targets)))
        return done

    def close(self) -> None:
        """Close what is open."""
        self._reads.close()


class CountingStore(ObjectStore):
    """Reads as the store it stands before, and counts the bytes that it serves.

    Attributes:
        served: bytes read of objects so far.
    """

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store.url, store._store, store._s3)  # noqa: SLF001 - the same place, through another door
        self.served = 0
        self._count = Lock()

    def _counted(self, nbytes: int) -> None:
        with self._count:
            self.served += nbytes

    def get(self, key: str) -> bytes:
        """Return a whole object."""
        raw = super().get(key)
        self._counted(len(raw))
        return raw

    def get_range(self, key: str, start: int, end: int) -> memoryview:
        """Return a byte range of an object."""
        raw = super().get_range(key, start, end)
        self._counted(len(raw))
        return raw

    def direct(self) -> DirectReads | None:
        """Return what reads straight into memory, counted as well."""
        reads = super().direct()
        return reads and CountedReads(reads, self._counted)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return byte ranges of an object."""
        found = super().get_ranges(key, ranges)
        self._counted(sum(map(len, found)))
        return found


@dataclass(frozen=True)
class Case:
    """A way to read the layout.

    Attributes:
        name: what tables call it.
        key: what the JSON calls it.
        share: memory over the data's bytes.
        order: which samples; whatever reads them is given the same.
    """

    name: str
    key: str
    share: float
    order: Order


# -- the loader ----------------------------------------------------------------------------------------


def stats_of(loader: Loader) -> EpochStats:
    """Return the figures of the loader's last epoch."""
    report = loader.last_epoch
    assert report is not None, "an epoch was read"
    return report.stats


def read(
    repository: Repository, store: CountingStore, case: Case, trace: Sequence[NDArray[np.int32]], step_s: float
) -> Counted:
    """Read all epochs with a new loader and return what it did, by the store's count: every chunk served is a miss.

    Args:
        repository: the dataset, through `store`.
        store: counts what is fetched.
        case: what to read with how much memory.
        trace: what every epoch must touch.
        step_s: seconds of computing on each batch, a sleep.

    Raises:
        AssertionError: the loader's figures are not those of the store and the trace.
    """
    manifest = repository.open()
    memory = int(manifest.nbytes.sum() * case.share)
    options = LoaderOptions(_BATCH, memory=memory, remainder="keep")
    loader = Loader(repository, case.order, options)
    touches = told = before = 0
    for number, chunks in enumerate(trace):
        for _ in loader:
            if step_s:
                time.sleep(step_s)
        stats = stats_of(loader)
        assert stats.touches == len(chunks), f"{stats.touches} touches are reported of {len(chunks)}"
        if number:
            touches, told = touches + stats.touches, told + stats.origin_bytes
        else:
            before = store.served
    served = store.served - before
    loader.close()
    # What is under way when an epoch ends may count in either.
    size = int(manifest.nbytes.max())
    slack = options.max_concurrency * 16 * size
    assert abs(told - served) <= slack, f"the loader reports {told} bytes, the store served {served}"
    return Counted(touches, touches - round(served / size), served)


# -- the benchmark -------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = harness.parse_options("loader_cache", str(__doc__).splitlines()[0], arguments)
    harness.print_environment()
    work = workloads.small_samples(200 if options.quick else 2_000)
    with tempfile.TemporaryDirectory(prefix="foreshard-bench-run-") as folder:
        store = CountingStore(ObjectStore.open(Path(folder).as_uri()))
        repository = Repository(store, "data")
        repository.publish(workloads.lay_out(work, store).ref)
        found = {case.key: measure(options, repository, store, case) for case in cases(repository.open())}
    figures = [
        Figure("uniform_c50_origin_over_min", found["uniform_c50"]["origin_over_min"], 1.02, at_least=False),
        Figure("zipf08_c10_fraction_of_min", found["zipf08_c10"]["fraction_of_min"], 0.97, at_least=True),
        Figure("zipf11_c10_fraction_of_min", found["zipf11_c10"]["fraction_of_min"], 0.97, at_least=True),
    ]
    harness.finish(options, figures, {"cases": found})


def cases(manifest: Manifest) -> list[Case]:
    """Return what is measured on a layout."""
    rows = manifest.header.rows
    chunk_rows = rows // len(manifest)
    return [
        Case(
            "uniform shuffle of chunks, each used once an epoch; memory 50 %",
            "uniform_c50",
            0.5,
            BlockShuffleOrder(rows, seed=1, block=chunk_rows, window=1),
        ),
        Case(
            f"uniform shuffle of samples, {chunk_rows} a chunk; memory 50 %",
            "uniform_samples_c50",
            0.5,
            UniformOrder(rows, seed=1),
        ),
        Case(
            "weighted draws, as many as samples; chunks Zipf 0.8; memory 10 %", "zipf08_c10", 0.1, zipf(manifest, 0.8)
        ),
        Case(
            "weighted draws, as many as samples; chunks Zipf 1.1; memory 10 %", "zipf11_c10", 0.1, zipf(manifest, 1.1)
        ),
    ]


def zipf(manifest: Manifest, exponent: float) -> WeightedOrder:
    """Return an order of draws with replacement, as many an epoch as there are samples.

    The weight of a sample is that of its chunk, the chunk at rank r of a random ranking having r ** -exponent.
    """
    ids = np.arange(manifest.header.rows, dtype=np.int64)
    ranks = 1.0 + np.random.default_rng(3).permutation(len(manifest))
    order = WeightedOrder(ids, seed=1, draws=len(ids))
    order.update_weights(ids, (ranks**-exponent)[manifest.chunk_of[ids]])
    return order


def measure(options: Options, repository: Repository, store: CountingStore, case: Case) -> dict[str, Any]:
    """Measure a case, print its table and return its figures."""
    manifest = repository.open()
    nbytes, epochs = manifest.nbytes, 3 if options.quick else _EPOCHS
    budget = int(nbytes.sum() * case.share)
    beyond = [trace_of(case.order, manifest, epoch + 1, _BATCH) for epoch in range(epochs + 1)]
    trace = beyond[:epochs]
    whole = np.concatenate(trace)
    best = count(trace, plan_residency(np.concatenate(beyond), nbytes, budget).hit, nbytes)
    others: dict[str, Callable[[], NDArray[np.bool_]]] = {
        "MIN that sees one epoch at a time": lambda: min_by_epoch(trace, nbytes, budget),
        "the most used chunks pinned": lambda: reactive.static_top(whole, nbytes, budget),
        "LRU; policy of MosaicML Streaming, simulated": lambda: reactive.lru(whole, nbytes, budget),
        "FIFO; policy of WebDataset, simulated": lambda: reactive.fifo(whole, nbytes, budget),
        "deleted after use; policy of LitData, simulated": lambda: reactive.delete_after_use(whole),
    }
    repeats = 1 if options.quick else _REPEATS
    runs = [read(repository, store, case, trace, _STEP_S) for _ in range(repeats)]
    rows = {
        "MIN": best,
        f"foreshard, {1e3 * _STEP_S:g} ms of computing a batch": _middle(runs),
        "foreshard, no computing": read(repository, store, case, trace, 0.0),
        **{name: count(trace, play(), nbytes) for name, play in others.items()},
    }
    harness.print_table(
        f"{case.name} ({len(manifest):,} chunks, {nbytes.sum() / 1e6:.0f} MB; {len(whole) // epochs:,} uses an epoch)",
        _COLUMNS,
        [
            (
                name,
                f"{done.hit_rate:.1%}",
                f"{done.hits / best.hits:.3f}",
                f"{done.nbytes / (epochs - 1) / 1e6:.1f}",
                f"{done.nbytes / best.nbytes:.3f}",
            )
            for name, done in rows.items()
        ],
    )
    over, of = (
        [round(each, 4) for each in values]
        for values in ((run.nbytes / best.nbytes for run in runs), (run.hits / best.hits for run in runs))
    )
    return {
        "origin_over_min": statistics.median(over),
        "origin_over_min_runs": over,
        "fraction_of_min": statistics.median(of),
        "fraction_of_min_runs": of,
        "hit_rates": {name: round(done.hit_rate, 4) for name, done in rows.items()},
        "origin_bytes": {name: done.nbytes for name, done in rows.items()},
    }


def _middle(runs: Sequence[Counted]) -> Counted:
    """Return the run with the median of bytes."""
    return sorted(runs, key=lambda run: run.nbytes)[len(runs) // 2]


if __name__ == "__main__":
    main()
