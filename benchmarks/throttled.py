"""A cold epoch over a slow link (20 ms a request, 400 Mbit/s for all) against the least time that it can take.

Run with `make bench ARGS=throttled`. SeaweedFS serves samples of 25 KB through a throttling proxy that is a process of
its own. Computing is a sleep. The least time is that of the link or of computing, whichever is longer; how the order
delays the first batches is told apart. Runs are in turn, medians of five; every epoch is that of a new loader.
"""

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import harness, workloads
from benchmarks.harness import Figure, Options
from benchmarks.throttle import Link, Speed, throttled
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import BlockShuffleOrder
from foreshard.shards.manifest import Manifest
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore

_SPEED: Final = Speed(latency_s=0.020, rate=400e6 / 8)
_BATCH: Final = 64
_MEMORY: Final = 200 << 20
_BUSY: Final = 0.9
"""Computing as a share of what the link takes, in the case with computing."""

_REACHED: Final = 0.95
"""Share of the link's rate that plain GETs must reach for the figures to tell anything about the loader."""

_DEFAULT: Final = LoaderOptions.max_concurrency
_MORE: Final = (8, 16)
_QUEUED: Final = LoaderOptions.queue_batches
_WAITS: Final = ("first_ms", "median_ms", "p99_ms", "least_p99_ms", "longest_ms", "waited_s")


@dataclass(frozen=True)
class World:
    """What all epochs read.

    Attributes:
        link: the slow link.
        direct: the store without it.
        manifest: its layout.
        order: which samples.
    """

    link: Link
    direct: ObjectStore
    manifest: Manifest
    order: BlockShuffleOrder

    def open_store(self) -> ObjectStore:
        """Open the store behind the link."""
        return ObjectStore.open(self.direct.url, endpoint=self.link.endpoint)

    @property
    def first_steps(self) -> NDArray[np.int64]:
        """The batch that uses each chunk first; int64, shape (C,)."""
        chunks = self.manifest.chunk_of[self.order.ids(1, 0, self.order.length(1))]
        return np.unique(chunks, return_index=True)[1] // _BATCH

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-self.order.length(1) // _BATCH)


@dataclass(frozen=True)
class Epoch:
    """How an epoch went.

    Attributes:
        seconds: from asking for the first batch to the end of computing on the last.
        waits: seconds that each `next()` took, shape (s,).
        requests: that the link passed on.
        nbytes: bytes that it passed on.
    """

    seconds: float
    waits: NDArray[np.float64]
    requests: int
    nbytes: int


# -- the link ------------------------------------------------------------------------------------------


def plain_rate(world: World, threads: int) -> float:
    """Return the bytes a second of plain GETs of chunks, so many at a time, over what the link should give."""
    store, manifest = world.open_store(), world.manifest

    def fetch(chunk: int) -> int:
        return len(store.get_range(manifest.shard_key(chunk), int(manifest.starts[chunk]), int(manifest.ends[chunk])))

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        nbytes = sum(pool.map(fetch, range(min(len(manifest), 100))))
    return nbytes / (time.perf_counter() - began) / _SPEED.rate


def check_link(world: World) -> dict[str, float]:
    """Measure the link by plain GETs: its bandwidth by many at a time, its latency by one after the other."""
    many, single = plain_rate(world, 8), plain_rate(world, 1)
    key = world.manifest.shard_key(0)
    direct, slow = _latencies(world.direct, key), _latencies(world.open_store(), key)
    rate = _SPEED.rate / 1e6
    harness.print_table(
        "the link by plain GETs",
        ("", "measured", "nominal"),
        [
            ("8 at a time, MB/s", f"{many * rate:.2f}", f"{rate:.2f}"),
            ("1 at a time, MB/s", f"{single * rate:.2f}", ""),
            ("a GET of one byte, ms", harness.spread(slow, 1), f"{1e3 * _SPEED.latency_s:.0f} more"),
            ("the same without the proxy", harness.spread(direct, 1), ""),
        ],
    )
    added = statistics.median(slow) - statistics.median(direct)
    return {"rate_over_nominal": round(many, 4), "added_ms": round(added, 2)}


def _latencies(store: ObjectStore, key: str) -> list[float]:
    """Return how long GETs of one byte took, in ms."""
    took: list[float] = []
    for _ in range(20):
        began = time.perf_counter()
        store.get_range(key, 0, 1)
        took.append(1e3 * (time.perf_counter() - began))
    return took


# -- the epochs ----------------------------------------------------------------------------------------


def read_epoch(world: World, step_s: float, concurrency: int) -> Epoch:
    """Read a cold epoch with a new loader; opening the layout, which a run does once, is not timed."""
    repository = Repository(world.open_store(), "data")
    options = LoaderOptions(_BATCH, memory=_MEMORY, max_concurrency=concurrency, remainder="keep")
    loader = Loader(repository, world.order, options)
    before, waits = world.link.counts(), np.zeros(world.steps)
    began = asked = time.perf_counter()
    for step, _ in enumerate(loader):
        waits[step] = time.perf_counter() - asked
        if step_s:
            time.sleep(step_s)
        asked = time.perf_counter()
    seconds, after = asked - began, world.link.counts()
    loader.close()
    return Epoch(seconds, waits, after.requests - before.requests, after.nbytes - before.nbytes)


Case = tuple[bool, int]
"""Whether the loop computes, and the loader's `max_concurrency`."""


def run_cases(world: World, step_s: float, rounds: int) -> dict[Case, list[Epoch]]:
    """Read epochs with and without computing, in turn, and one each with more fetches at a time."""
    done: dict[Case, list[Epoch]] = {}

    def run(case: Case) -> float:
        epoch = read_epoch(world, step_s if case[0] else 0.0, case[1])
        done.setdefault(case, []).append(epoch)
        return epoch.seconds

    cases: list[Case] = [(computing, _DEFAULT) for computing in (False, True)]
    harness.interleave({str(case): partial(run, case) for case in cases}, rounds)
    done = {case: epochs[1:] for case, epochs in done.items()}
    for concurrency in _MORE:
        for computing in (False, True):
            run((computing, concurrency))
    return done


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = harness.parse_options("throttled", str(__doc__).splitlines()[0], arguments)
    harness.print_environment()
    work = workloads.samples(2_000 if options.quick else 40_000)
    work = replace(work, order=np.arange(work.snapshot.rows))
    with harness.s3_server("seaweedfs") as server:
        url = f"s3://{server.create_bucket()}/bench"
        repository = Repository(ObjectStore.open(url, endpoint=server.endpoint), "data")
        repository.publish(workloads.lay_out(work, repository.store).ref)
        order = BlockShuffleOrder(work.snapshot.rows, seed=1, block=work.chunk_rows, window=4 if options.quick else 25)
        with throttled(server.endpoint, _SPEED) as link:
            world = World(link, repository.store, repository.open(), order)
            details: dict[str, Any] = {"link": check_link(world)}
            step_s = _BUSY * _SPEED.least_time(int(world.manifest.nbytes.sum()), world.steps, 0.0) / world.steps
            done = run_cases(world, step_s, 1 if options.quick else harness.ROUNDS)
            details["link"]["rate_over_nominal_afterwards"] = round(plain_rate(world, 8), 4)
    _finish(options, world, step_s, done, details)


def _finish(
    options: Options, world: World, step_s: float, done: dict[Case, list[Epoch]], details: dict[str, Any]
) -> None:
    """Print the tables and the figures."""
    figures = {key: summarise(world, step_s if key[0] else 0.0, epochs) for key, epochs in done.items()}
    names = {
        (computing, concurrency): f"{concurrency} fetches, "
        + (f"computing {1e3 * step_s:.1f} ms" if computing else "no computing")
        for computing, concurrency in done
    }
    names[False, _DEFAULT] += " (default)"
    names[True, _DEFAULT] += " (default)"
    total = world.manifest.nbytes.sum() / 1e6
    harness.print_table(
        f"a cold epoch of {total:.0f} MB in {world.steps} batches, {_MEMORY >> 20} MiB of memory; seconds",
        ("", "measured", "least", "over least", "the order's least", "over that"),
        [
            (
                names[key],
                harness.spread([epoch.seconds for epoch in done[key]]),
                f"{each['least_s']:.2f}",
                f"{each['over_least']:.3f}",
                f"{each['order_least_s']:.2f}",
                f"{each['over_order_least']:.3f}",
            )
            for key, each in figures.items()
        ],
    )
    harness.print_table(
        f"waits in next(), ms (but for the first: behind {_QUEUED} batches); requests, and bytes over the data's",
        ("", "first", "median", "p99", "least p99", "longest", "all, s", "requests", "bytes"),
        [
            (names[key], *(f"{each[name]:.1f}" for name in _WAITS), f"{each['requests']:.0f}", f"{each['bytes']:.3f}")
            for key, each in figures.items()
        ],
    )
    reached = min(details["link"]["rate_over_nominal"], details["link"]["rate_over_nominal_afterwards"])
    if reached < _REACHED:
        harness.console.print(
            f"plain GETs reached {reached:.0%} of the link's rate: the machine was too busy to tell", style="bold red"
        )
    cases = {f"{'computing' if computing else 'idle'}_{n}": each for (computing, n), each in figures.items()}
    worst = max(figures[computing, _DEFAULT]["over_least"] for computing in (False, True))
    # The link is slower than computing, so the loop waits. The order has that wait come where a window of blocks
    # begins, and makes it what `Speed.least_waits` says; a loader that adds a step's time to it at most is doing well.
    ceiling = round(figures[True, _DEFAULT]["least_p99_ms"] + 1e3 * step_s, 1)
    found = [
        Figure("epoch_time_over_lower_bound", worst, 1.10, at_least=False),
        Figure("p99_wait_ms", figures[True, _DEFAULT]["p99_ms"], ceiling, at_least=False),
    ]
    harness.finish(options, found, {**details, "step_ms": round(1e3 * step_s, 2), "cases": cases})


def summarise(world: World, step_s: float, epochs: Sequence[Epoch]) -> dict[str, float]:
    """Return the figures of a case's epochs: medians, and waits of all of them together."""
    nbytes = world.manifest.nbytes
    seconds = statistics.median(epoch.seconds for epoch in epochs)
    least = _SPEED.least_time(int(nbytes.sum()), world.steps, step_s)
    least_wait = _SPEED.least_waits(nbytes, world.first_steps, world.steps, step_s)
    ordered = world.steps * step_s + float(least_wait.sum())
    waits = 1e3 * np.concatenate([epoch.waits[_QUEUED:] for epoch in epochs])
    values = {
        "seconds": seconds,
        "least_s": least,
        "over_least": seconds / least,
        "order_least_s": ordered,
        "over_order_least": seconds / ordered,
        "first_ms": 1e3 * statistics.median(epoch.waits[0] for epoch in epochs),
        "median_ms": float(np.median(waits)),
        "p99_ms": float(np.quantile(waits, 0.99)),
        "least_p99_ms": 1e3 * float(np.quantile(least_wait[_QUEUED:], 0.99)),
        "longest_ms": float(waits.max()),
        "waited_s": statistics.median(epoch.waits.sum() for epoch in epochs),
        "requests": statistics.median(epoch.requests for epoch in epochs),
        "bytes": statistics.median(epoch.nbytes for epoch in epochs) / int(nbytes.sum()),
    }
    return {name: round(float(value), 4) for name, value in values.items()}


if __name__ == "__main__":
    main()
