"""What a loader has done of an epoch, however many loops read a part of it."""

import time
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from foreshard.access.log import AccessLogWriter
from foreshard.keys import LayoutRef
from foreshard.loader.assembly import Assembled
from foreshard.loader.dealing import Place
from foreshard.loader.epochs import EpochReport
from foreshard.loader.options import LoaderOptions
from foreshard.prefetch.monitor import BatchFigures, EpochStats, Monitor
from foreshard.prefetch.traffic import Traffic
from foreshard.shards.manifest import Manifest
from foreshard.shards.repository import Repository


@dataclass
class EpochProgress:
    """Counters and access log of an epoch under way; counters are those of `EpochStats`.

    Attributes:
        epoch: the epoch, from 1.
        layout: the layout it reads.
        log: its access log; None if it logs nothing.
        length: steps of the epoch, over all workers.
        moved: what was moved before the loader came to this layout.
        monitor: is told of every batch; see `watch`.
        since: when the last batch was handed out, in seconds; None before a loop's first.
        told: the last step that was counted.
    """

    epoch: int
    layout: LayoutRef
    log: AccessLogWriter | None
    length: int = 0
    moved: Traffic = field(default_factory=Traffic)
    monitor: Monitor | None = None
    since: float | None = None
    told: int = -1
    steps: int = 0
    samples: int = 0
    ready_steps: int = 0
    plan_s: float = 0.0
    loop_s: float = 0.0
    wait_s: float = 0.0
    wait_fetch_s: float = 0.0
    wait_decode_s: float = 0.0
    touches: int = 0
    hits: int = 0
    min_hits: int = 0
    min_bytes: int = 0

    def watch(self, monitor: Monitor, done: int) -> None:
        """Begin a loop behind `done` steps of the epoch: tell a monitor of it and of its batches from now on."""
        self.monitor, self.since = monitor, None
        monitor.begin(self.epoch, self.length, done)

    def deliver(
        self, batch: Assembled, step: int, sample_ids: NDArray[np.int64], sizes: NDArray[np.int64], waited: float
    ) -> None:
        """Count and log a batch that the training loop receives.

        An interrupt (Ctrl-C) may come before the batch is handed out, and the loop begin anew with it: it counts once.

        Args:
            batch: the batch.
            step: its step.
            sample_ids: its samples, shape (b,).
            sizes: bytes of the chunks it touched, shape (t,).
            waited: seconds that `next()` waited for it; 0.0 if it was ready.
        """
        if step <= self.told:
            return
        self.told = step
        if self.log is not None:
            self.log.touches(step, batch.chunks, batch.hit, sizes, batch.wait_us, batch.fetch_us)
            self.log.samples(step, sample_ids)
        self.steps += 1
        self.samples += len(sample_ids)
        self.ready_steps += waited == 0.0
        self.wait_s += waited
        # A batch that was waited for was the next to be made, and gathering its rows is the last part of that.
        decode = min(waited, batch.gather_s)
        fetch = min(waited - decode, batch.fetch_s)
        self.wait_fetch_s += fetch
        self.wait_decode_s += decode
        self.touches += len(batch.hit)
        self.hits += int(np.count_nonzero(batch.hit))
        self.min_hits += int(batch.window.min_hits[batch.index])
        self.min_bytes += int(batch.window.min_bytes[batch.index])
        self._tell(batch, step, len(sample_ids), (fetch, decode, 0.0, waited - fetch - decode))
        now = time.perf_counter()
        if self.since is not None:
            self.loop_s += max(now - self.since - waited, 0.0)
        self.since = now

    def _tell(self, batch: Assembled, step: int, samples: int, waits: tuple[float, float, float, float]) -> None:
        if self.monitor is not None:
            touches, hits = len(batch.hit), int(np.count_nonzero(batch.hit))
            fetched = int(batch.nbytes.sum()) if hits < touches else 0
            self.monitor.batch(step, BatchFigures(*waits, touches, hits, samples, fetched))

    def move(self, manifest: Manifest, traffic: Traffic) -> None:
        """Go on in another layout.

        Args:
            manifest: the layout.
            traffic: what was moved in the one before.
        """
        self.layout = manifest.ref
        self.moved += traffic
        if self.log is not None:
            self.log.move(manifest.ref.generation, manifest.chunk_of, manifest.nbytes)

    def report(self, traffic: Traffic, place: Place) -> EpochReport:
        """Return what was done when the epoch ends, together with what was moved meanwhile.

        Args:
            traffic: what was moved.
            place: the reader's.
        """
        stats = self.stats(traffic)
        return EpochReport(self.epoch, place.rank, place.world, self.length, self.layout, stats, self.log)

    def stats(self, traffic: Traffic) -> EpochStats:
        """Return the counters together with what was moved meanwhile."""
        traffic = self.moved + traffic
        return EpochStats(
            self.epoch,
            steps=self.steps,
            samples=self.samples,
            ready_steps=self.ready_steps,
            plan_s=self.plan_s,
            loop_s=self.loop_s,
            wait_s=self.wait_s,
            wait_fetch_s=self.wait_fetch_s,
            wait_decode_s=self.wait_decode_s,
            wait_queue_s=max(self.wait_s - self.wait_fetch_s - self.wait_decode_s, 0.0),
            touches=self.touches,
            hits=self.hits,
            min_hits=max(self.min_hits, self.hits),
            min_bytes=min(self.min_bytes, traffic.origin_bytes),
            **asdict(traffic),
        )


def begin_epoch(
    repository: Repository, options: LoaderOptions, layout: LayoutRef, epoch: int, steps: int
) -> EpochProgress:
    """Return the progress of an epoch that nothing was read of, with a log if the options want one.

    Args:
        repository: where a log would go.
        options: place and logging of the reader.
        layout: the layout it reads.
        epoch: the epoch, from 1.
        steps: steps of the epoch.
    """
    settings = options.logging
    if settings is None:
        return EpochProgress(epoch, layout, None, steps)
    log = AccessLogWriter(
        repository.store,
        repository.keys,
        run=settings.run,
        epoch=epoch,
        rank=options.place.rank,
        generation=layout.generation,
        write_id=settings.write_id,
        steps=steps,
        phases=min(settings.phases, steps),
    )
    return EpochProgress(epoch, layout, log, steps)
