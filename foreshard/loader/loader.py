"""The loader: hands a training loop the batches of an order, from memory wherever the order or a forecast allows."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.access.log import AccessLogWriter
from foreshard.errors import ConfigError, ObjectNotFoundError
from foreshard.loader.assembly import Assembled, Assembler
from foreshard.loader.batch import Batch
from foreshard.loader.dealing import deal, epoch_steps
from foreshard.loader.epochs import EpochReport
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import Order
from foreshard.loader.reading import chunk_fetcher, wanted_columns
from foreshard.prefetch.control import Tuning, adjust
from foreshard.prefetch.manifest import read_prefetch
from foreshard.prefetch.monitor import EpochStats, min_hits
from foreshard.prefetch.prefetcher import Prefetcher
from foreshard.prefetch.region import Region
from foreshard.prefetch.schedule import Touches, find_touches, uses_beyond
from foreshard.shards.manifest import LayoutRef, Manifest
from foreshard.shards.repository import Repository
from foreshard.simulate.belady import plan_residency
from foreshard.splits import split_code

_STATE_VERSION: Final = 1
_LOCAL_BURST: Final = 16


class Loader:
    """Reads a dataset in a fixed order, whatever layout its bytes have.

    Nothing runs before the first batch is asked for: no thread, client or fetch, so a loader may be carried over a
    fork. It runs no collective. Between epochs it can move to a newer layout (`refresh`) without changing the order.

    Args:
        repository: the dataset's repository.
        order: which samples, in which sequence.
        options: how to read.
        split: the split the order's population comes from; sizes the memory.
        layout: the layout to read; the current one by default.

    Raises:
        ConfigError: an option that cannot be used.
        BudgetError: the memory cannot hold what is needed to make progress.
        StorageError: the dataset has no published layout.
    """

    def __init__(
        self,
        repository: Repository,
        order: Order,
        options: LoaderOptions,
        *,
        split: str = "train",
        layout: LayoutRef | None = None,
    ) -> None:
        self.order = order
        self.options = options
        self.repository = repository
        self._split = split_code(split)
        self.report: EpochReport | None = None
        self._epoch, self._step = 1, 0
        self._tuning = Tuning(concurrency=min(2, options.max_concurrency))
        self._pid = os.getpid()
        self._assembler: Assembler | None = None
        self._open(repository.open(layout))

    # -- the layout -----------------------------------------------------------------------------------
    @property
    def layout(self) -> LayoutRef:
        """The layout being read."""
        return self.manifest.ref

    @property
    def node(self) -> int:
        """The layout's node that this rank reads for."""
        return self.options.place.rank % len(self.manifest.header.nodes)

    @property
    def memory(self) -> int:
        """Bytes for chunks."""
        return self._prefetcher.region.budget

    def refresh(self, layout: LayoutRef | None = None) -> bool:
        """Move to another layout (the current one by default) and warm up from its prefetch manifest.

        Call it between epochs. The order, and so what the training loop sees, stays the same.

        Returns:
            Whether the layout changed.
        """
        manifest = self.repository.open(layout)
        if manifest.ref == self.manifest.ref:
            return False
        if manifest.header.fingerprint != self.manifest.header.fingerprint:
            raise ConfigError(
                f"layout {manifest.ref} is of snapshot {manifest.header.fingerprint}, this loader reads "
                f"{self.manifest.header.fingerprint}; a run keeps its snapshot, start a new run for new data"
            )
        self.close()
        self._open(manifest)
        self.warm()
        return True

    def warm(self) -> int:
        """Begin to fetch what the node's prefetch manifest suggests, before the next order is known.

        Returns:
            The number of chunks asked for; 0 if the layout has no prefetch manifest for this node.
        """
        keys, names = self.repository.keys, self.manifest.header.nodes
        try:
            table = read_prefetch(self.repository.store, keys, self.layout, names[self.node])
        except ObjectNotFoundError:
            return 0
        chunks = table.column("chunk").to_numpy()
        self._scores[chunks] = table.column("expected").to_numpy()
        pinned = chunks[table.column("pinned").to_numpy(zero_copy_only=False)]
        share = self._tuning.forecast * (1 - self._tuning.lookahead)
        self._prefetcher.warm(pinned.tolist(), share=share, concurrency=self.options.max_concurrency)
        return len(pinned)

    def _open(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._columns = wanted_columns(manifest, self.options.columns)
        self._batch_schema = pa.schema([manifest.schema.field(name) for name in self._columns])
        mine = manifest.splits == self._split
        largest = int(manifest.nbytes[mine].max(initial=0))
        budget = self.options.memory
        if budget is None:
            held = manifest.nbytes[mine & (manifest.nodes == self.node)].sum()
            budget = int(held * self.options.cache_fraction)
        # Expected draws per chunk: how forecasts decide what stays beyond the known order. Uniform until told.
        self._scores = np.where(mine, manifest.scores.astype(np.float64), 0.0)
        self._prefetcher = self._new_prefetcher(budget, largest)

    def _new_prefetcher(self, budget: int, largest: int) -> Prefetcher:
        store = self.repository.store
        fetch = chunk_fetcher(store, self.manifest, self._columns)
        burst = _LOCAL_BURST if store.local else 1
        return Prefetcher(
            fetch, self.manifest.nbytes, Region(budget, largest), timeout=self.options.timeout, burst=burst
        )

    # -- reading --------------------------------------------------------------------------------------
    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the current epoch, then move to the next one."""
        self._check_fork()
        epoch, first = self._epoch, self._step
        steps = epoch_steps(self.order.length(epoch), self.options.global_batch, self.options.remainder)
        touches = self._schedule(epoch, first, steps)
        resident = self._prefetcher.resident()
        assembler = self._start(touches, resident)
        log = self._open_log(epoch, steps)
        stats = EpochStats(epoch)
        try:
            for _ in range(len(touches.steps)):
                assembled, waited = assembler.next_batch()
                stats = _count(stats, assembled, waited)
                batch = self._deliver(epoch, touches, assembled, log)
                self._step = batch.step + 1
                yield batch
        finally:
            assembler.stop()
            self._prefetcher.pause()
            self._assembler = None
        self._epoch, self._step = epoch + 1, 0
        stats = self._finish(stats, touches, resident)
        self.report = EpochReport(epoch, self.options.place.rank, steps, self.layout, stats, log)
        self._tuning = adjust(self._tuning, stats, max_concurrency=self.options.max_concurrency)

    def _schedule(self, epoch: int, first: int, steps: int) -> Touches:
        options, place = self.options, self.options.place
        numbers = np.arange(first, steps, dtype=np.int32)
        numbers = numbers[numbers % place.workers == place.worker]
        batch, length = options.global_batch, self.order.length(epoch)
        low, high = first * batch, min(steps * batch, length)
        ids = self.order.ids(epoch, min(low, high), high)
        places = np.arange(min(low, high), high, dtype=np.int64)
        if options.remainder == "pad" and steps * batch > length:
            ids = np.concatenate([ids, self._padding(epoch, steps * batch - length, length)])
            places = np.arange(low, steps * batch, dtype=np.int64)
        step_of, position = places // batch, places % batch
        owners = self.manifest.nodes[self.manifest.chunk_of[ids]] if options.dealing == "owner" else None
        mine = deal(position, owners, batch, len(self.manifest.header.nodes), place)
        mine &= step_of % place.workers == place.worker
        index = np.searchsorted(numbers, step_of[mine]).astype(np.int64)
        manifest = self.manifest
        return find_touches(numbers, index, ids[mine], position[mine], manifest.chunk_of, manifest.row_of)

    def _padding(self, epoch: int, missing: int, length: int) -> NDArray[np.int64]:
        start = self.order.ids(epoch, 0, min(missing, length))
        return np.resize(start, missing)

    def _start(self, touches: Touches, resident: frozenset[int]) -> Assembler:
        region, nbytes = self._prefetcher.region, self.manifest.nbytes
        cache = max(int(region.capacity * (1 - self._tuning.lookahead)), 0)
        # Fetching ahead needs room for the largest chunk at least, or the queue's head could never be reserved.
        cache = min(cache, region.capacity - region.bypass)
        ahead = region.capacity - cache
        later = uses_beyond(self._scores, len(touches.chunks))
        plan = plan_residency(touches.chunks, nbytes, cache, resident=resident, later=later)
        misses = np.flatnonzero(~plan.hit)
        needed = zip(misses.tolist(), touches.chunks[misses].tolist(), strict=True)
        self._prefetcher.begin(needed, plan.kept_at_start, concurrency=self._tuning.concurrency, ahead=ahead)
        depth, timeout = self.options.queue_batches, self.options.timeout
        assembler = Assembler(
            touches, plan.keep, self._prefetcher, schema=self._batch_schema, depth=depth, timeout=timeout
        )
        assembler.start()
        self._assembler = assembler
        return assembler

    def _deliver(self, epoch: int, touches: Touches, assembled: Assembled, log: AccessLogWriter | None) -> Batch:
        step = int(touches.steps[assembled.index])
        span = slice(touches.batch_offsets[assembled.index], touches.batch_offsets[assembled.index + 1])
        ids = touches.sample_ids[span]
        if log is not None:
            sizes = self.manifest.nbytes[assembled.chunks]
            log.touches(step, assembled.chunks, assembled.hit, sizes, assembled.wait_us, assembled.fetch_us)
            log.samples(step, ids)
        return Batch(epoch, step, ids, touches.positions[span], assembled.rows)

    def _finish(self, stats: EpochStats, touches: Touches, resident: frozenset[int]) -> EpochStats:
        region = self._prefetcher.region
        best = min_hits(touches.chunks, self.manifest.nbytes, region.budget, resident)
        traffic = asdict(self._prefetcher.take_traffic())
        return stats + EpochStats(stats.epoch, min_hits=best, peak_bytes=region.peak, **traffic)

    def _open_log(self, epoch: int, steps: int) -> AccessLogWriter | None:
        settings = self.options.logging
        if settings is None:
            return None
        return AccessLogWriter(
            self.repository.store,
            self.repository.keys,
            run=settings.run,
            epoch=epoch,
            rank=self.options.place.rank,
            generation=self.layout.generation,
            write_id=settings.write_id,
            steps=steps,
            phases=min(settings.phases, steps),
        )

    def _check_fork(self) -> None:
        """A forked child has none of its parent's threads: it starts its own, with an empty region."""
        if self._assembler is not None:
            raise ConfigError("this loader is being iterated already; finish or close that loop first")
        if os.getpid() != self._pid:
            self._pid = os.getpid()
            region = self._prefetcher.region
            self._prefetcher = self._new_prefetcher(region.budget, region.bypass)

    # -- state ----------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return where the training loop stands: a few numbers, counted by the batches it received."""
        return {
            "version": _STATE_VERSION,
            "order": self.order.name,
            "fingerprint": self.manifest.header.fingerprint,
            "global_batch": self.options.global_batch,
            "remainder": self.options.remainder,
            "epoch": self._epoch,
            "step": self._step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`'s output, under any rank, world size, worker count or layout.

        Raises:
            ConfigError: the state belongs to another order, snapshot or global batch, and would change what is seen.
        """
        mine = self.state_dict()
        for name in ("version", "order", "fingerprint", "global_batch", "remainder"):
            if state.get(name) != mine[name]:
                raise ConfigError(
                    f"loader state has {name} {state.get(name)!r}, this loader {mine[name]!r}; resuming would change "
                    "the order of samples"
                )
        steps = epoch_steps(self.order.length(state["epoch"]), self.options.global_batch, self.options.remainder)
        finished = state["step"] >= steps
        self._epoch, self._step = (state["epoch"] + 1, 0) if finished else (state["epoch"], state["step"])

    def set_epoch(self, epoch: int) -> None:
        """Start the given epoch (from 1) at its first step next."""
        if epoch < 1:
            raise ConfigError(f"epoch {epoch} must be at least 1")
        self._epoch, self._step = epoch, 0

    def close(self) -> None:
        """Stop the threads and free the memory; the loader may be used again."""
        if self._assembler is not None:
            self._assembler.stop()
            self._assembler = None
        self._prefetcher.close()


def _count(stats: EpochStats, batch: Assembled, waited: float) -> EpochStats:
    return stats + EpochStats(
        stats.epoch,
        steps=1,
        samples=batch.rows.num_rows,
        ready_steps=int(waited == 0.0),
        wait_s=waited,
        touches=len(batch.hit),
        hits=int(batch.hit.sum()),
    )
