"""What a loader has done of an epoch, however many loops read a part of it."""

from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from foreshard.access.log import AccessLogWriter
from foreshard.keys import LayoutRef
from foreshard.loader.assembly import Assembled
from foreshard.loader.options import LoaderOptions
from foreshard.prefetch.monitor import EpochStats
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
        moved: what was moved before the loader came to this layout.
    """

    epoch: int
    layout: LayoutRef
    log: AccessLogWriter | None
    moved: Traffic = field(default_factory=Traffic)
    steps: int = 0
    samples: int = 0
    ready_steps: int = 0
    plan_s: float = 0.0
    wait_s: float = 0.0
    wait_fetch_s: float = 0.0
    wait_decode_s: float = 0.0
    touches: int = 0
    hits: int = 0
    min_hits: int = 0
    min_bytes: int = 0

    def deliver(
        self, batch: Assembled, step: int, sample_ids: NDArray[np.int64], sizes: NDArray[np.int64], waited: float
    ) -> None:
        """Count and log a batch that the training loop receives.

        Args:
            batch: the batch.
            step: its step.
            sample_ids: its samples, shape (b,).
            sizes: bytes of the chunks it touched, shape (t,).
            waited: seconds that `next()` waited for it; 0.0 if it was ready.
        """
        self.steps += 1
        self.samples += len(sample_ids)
        self.ready_steps += waited == 0.0
        self.wait_s += waited
        fetch = min(waited, batch.fetch_s)
        self.wait_fetch_s += fetch
        self.wait_decode_s += min(waited - fetch, batch.gather_s)
        self.touches += len(batch.hit)
        self.hits += int(np.count_nonzero(batch.hit))
        self.min_hits += int(batch.window.min_hits[batch.index])
        self.min_bytes += int(batch.window.min_bytes[batch.index])
        if self.log is not None:
            self.log.touches(step, batch.chunks, batch.hit, sizes, batch.wait_us, batch.fetch_us)
            self.log.samples(step, sample_ids)

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

    def stats(self, traffic: Traffic) -> EpochStats:
        """Return the counters together with what was moved meanwhile."""
        traffic = self.moved + traffic
        return EpochStats(
            self.epoch,
            steps=self.steps,
            samples=self.samples,
            ready_steps=self.ready_steps,
            plan_s=self.plan_s,
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
        return EpochProgress(epoch, layout, None)
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
    return EpochProgress(epoch, layout, log)
