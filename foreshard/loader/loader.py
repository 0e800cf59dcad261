"""The loader: hands a training loop the batches of an order, from memory wherever the order or a forecast allows."""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foreshard.errors import ConfigError, DeadlineError
from foreshard.keys import LayoutRef
from foreshard.loader.assembly import Assembler
from foreshard.loader.batch import Batch
from foreshard.loader.dealing import epoch_steps
from foreshard.loader.epochs import EpochReport
from foreshard.loader.held import HeldLayout, hold_layout
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import Order
from foreshard.loader.progress import EpochProgress, begin_epoch
from foreshard.loader.scheduling import plan_epoch, schedule_epoch
from foreshard.loader.state import read_state, write_state
from foreshard.prefetch.control import Tuning, adjust
from foreshard.prefetch.ideal import min_traffic
from foreshard.prefetch.monitor import Monitor
from foreshard.prefetch.prometheus import to_prometheus
from foreshard.prefetch.schedule import Touches
from foreshard.shards.manifest import Manifest
from foreshard.shards.repository import Repository
from foreshard.splits import split_code

if TYPE_CHECKING:
    from foreshard.loader.live import LiveView


@dataclass
class _Loop:
    """One loop over the loader: the rest of an epoch, or as much of it as the training loop took."""

    assembler: Assembler
    touches: Touches
    resident: frozenset[int]
    progress: EpochProgress
    delivered: int = 0


class Loader:
    """Reads a dataset in a fixed order, whatever layout its bytes have.

    No thread runs before the first batch is asked for (or `warm`), and no collective ever. A process forked afterwards
    may go on reading from a local folder, with threads and memory of its own; the clients of other stores do not
    survive a fork, so reading there is refused. Between epochs a loader can move to a newer layout (`refresh`) without
    changing the order. `last_epoch` tells how the last epoch went, and is set before that epoch's last batch is handed
    out; `monitor` takes the figures of all of them, which `report`, `live` and `prometheus` show.

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
        self.last_epoch: EpochReport | None = None
        self._epoch, self._step = 1, 0
        self._tuning = Tuning(concurrency=options.max_concurrency)
        self._pid, self._forked = os.getpid(), False
        self._loop: _Loop | None = None
        self._progress: EpochProgress | None = None
        self._held = hold_layout(repository, layout, options, self._split)
        self.monitor = Monitor(self.memory)

    # -- the layout -----------------------------------------------------------------------------------
    @property
    def manifest(self) -> Manifest:
        """The manifest of the layout being read."""
        return self._held.manifest

    @property
    def layout(self) -> LayoutRef:
        """The layout being read."""
        return self.manifest.ref

    @property
    def memory(self) -> int:
        """Bytes for chunks."""
        return self._held.prefetcher.region.budget

    def refresh(self, layout: LayoutRef | None = None) -> bool:
        """Move to another layout (the current one by default) and warm up from its prefetch manifest.

        Call it between epochs. The order, and so what the training loop sees, stays the same.

        Returns:
            Whether the layout changed.

        Raises:
            ConfigError: the loader is being iterated, or the layout is of another snapshot or lacks a column.
            BudgetError: the memory cannot hold the new layout's chunks. As with the errors above, the loader can still
                read the old layout.
        """
        self._check_idle(reading_only=False)
        current = None if layout else self.repository.current()
        if self.layout == (layout or (current and current.ref)):
            return False
        held = hold_layout(self.repository, layout, self.options, self._split)
        manifest = held.manifest
        if manifest.ref == self.manifest.ref:
            held.close()
            return False
        if manifest.header.fingerprint != self.manifest.header.fingerprint:
            held.close()
            raise ConfigError(
                f"layout {manifest.ref} is of snapshot {manifest.header.fingerprint}, this loader reads "
                f"{self.manifest.header.fingerprint}; a run keeps its snapshot, start a new run for new data"
            )
        self.close()
        self._held = held
        self.monitor.budget = self.memory
        self.warm()
        return True

    def warm(self) -> int:
        """Begin to fetch what the prefetch manifests of this rank's nodes suggest, before the next order is known.

        Call it between epochs.

        Returns:
            The number of chunks asked for; 0 if the layout has no prefetch manifest for these nodes.

        Raises:
            ConfigError: the loader is being iterated.
        """
        self._check_idle(reading_only=False)
        self._held.keep()
        return self._held.warm(share=self._tuning.forecast * (1 - self._tuning.lookahead))

    # -- reading --------------------------------------------------------------------------------------
    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the current epoch, then move to the next one.

        Raises:
            DeadlineError: no batch was ready in time.
            ConfigError: another loop over this loader is under way, or the order does not fit the dataset.
            StorageError: a chunk cannot be read.
            CorruptDataError: a chunk's bytes are not those that were written.
        """
        self._check_idle()
        loop = self._begin()
        touches, progress = loop.touches, loop.progress
        progress.watch(self.monitor, self._steps(progress.epoch), self._step)
        try:
            for i, step in enumerate(touches.steps.tolist()):
                assembled, waited = loop.assembler.next_batch()
                span = slice(touches.batch_offsets[i], touches.batch_offsets[i + 1])
                ids = touches.sample_ids[span]
                progress.deliver(assembled, step, ids, self.manifest.nbytes[assembled.chunks], waited)
                self._step, loop.delivered = step + 1, i + 1
                if loop.delivered == len(touches.steps):
                    self._finish(loop)
                yield Batch(progress.epoch, step, ids, touches.positions[span], assembled.rows)
            if not len(touches.steps):
                self._finish(loop)
        finally:
            # After `close` another loop may be under way, and a forked child has no thread to stop.
            if self._loop is loop and os.getpid() == self._pid:
                self._leave(loop)

    def _begin(self) -> _Loop:
        epoch, now = self._epoch, time.perf_counter()
        progress = self._progress
        if progress is None or (progress.epoch, progress.layout) != (epoch, self.layout):
            progress = begin_epoch(self.repository, self.options, self.layout, epoch, self._steps(epoch))
        touches = schedule_epoch(
            self.order, self.manifest, self.options, split=self._split, epoch=epoch, first=self._step
        )
        held, prefetcher = self._held, self._held.prefetcher
        held.keep()
        resident = prefetcher.resident()
        plan = plan_epoch(
            touches,
            held.manifest.nbytes,
            prefetcher.region,
            lookahead=self._tuning.lookahead,
            resident=resident,
            scores=held.scores,
        )
        needed = zip(plan.misses.tolist(), touches.chunks[plan.misses].tolist(), strict=True)
        prefetcher.begin(needed, plan.kept_at_start, concurrency=self._tuning.concurrency, ahead=plan.ahead)
        depth, timeout = self.options.queue_batches, self.options.timeout
        assembler = Assembler(
            touches, plan.keep, prefetcher, arena=held.arena, gatherer=held.gatherer, depth=depth, timeout=timeout
        )
        self._loop, self._progress = _Loop(assembler, touches, resident, progress), progress
        assembler.start()
        progress.plan_s += time.perf_counter() - now
        return self._loop

    def _leave(self, loop: _Loop) -> None:
        """End a loop, wherever it stands; what it did stays in the epoch's progress."""
        delivered = loop.touches.chunks[: loop.touches.step_offsets[loop.delivered]]
        budget = self._held.prefetcher.region.budget
        least = min_traffic(delivered, self.manifest.nbytes, budget, loop.resident)
        loop.progress.min_hits += least.hits
        loop.progress.min_bytes += least.nbytes
        if loop.assembler.stop():
            self._loop = None
        self._held.prefetcher.pause()

    def _finish(self, loop: _Loop) -> None:
        """End the loop and its epoch."""
        self._leave(loop)
        progress, place = loop.progress, self.options.place
        stats = progress.stats(self._held.prefetcher.take_traffic())
        steps = self._steps(progress.epoch)
        told = (progress.layout, stats, progress.log)
        self.last_epoch = EpochReport(progress.epoch, place.rank, place.world, steps, *told)
        self.monitor.epoch(stats)
        self._tuning = adjust(self._tuning, stats, max_concurrency=self.options.max_concurrency)
        self._go_to(progress.epoch + 1, 0)

    def _steps(self, epoch: int) -> int:
        return epoch_steps(self.order.length(epoch), self.options.global_batch, self.options.remainder)

    # -- figures --------------------------------------------------------------------------------------
    def report(self) -> str:
        """Return tables of the epochs so far and of the last batches, with a line on what limits the loop."""
        from foreshard.loader.live import report_text

        return report_text(self.monitor.snapshot())

    def live(self) -> "LiveView":
        """Return a view to train in (`with loader.live():`): the report, redrawn on a terminal, or lines in a log."""
        from foreshard.loader.live import LiveView

        return LiveView(self.monitor)

    def prometheus(self, labels: Mapping[str, str] | None = None) -> str:
        """Return the figures in Prometheus' text format, each with the labels given, such as the run and the rank.

        Raises:
            ConfigError: a label that the format does not allow.
        """
        return to_prometheus(self.monitor.snapshot(), labels)

    # -- state ----------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return where the training loop stands: a few numbers, counted by the batches it received."""
        return write_state(self.order, self.manifest, self.options, self._epoch, self._step)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`'s output, under any rank, world size, worker count or layout.

        Raises:
            ConfigError: the state belongs to another order, snapshot or global batch, and would change what is seen, or
                the loader is being iterated.
        """
        self._check_idle()
        self._go_to(*read_state(state, self.order, self.manifest, self.options))

    def set_epoch(self, epoch: int) -> None:
        """Start the given epoch (from 1) at its first step next.

        Raises:
            ConfigError: there is no such epoch, or the loader is being iterated.
        """
        self._check_idle()
        if epoch < 1:
            raise ConfigError(f"epoch {epoch} must be at least 1")
        self._go_to(epoch, 0)

    def _go_to(self, epoch: int, step: int) -> None:
        self._epoch, self._step, self._progress = epoch, step, None

    def close(self) -> None:
        """Stop the threads and free the memory; the loader may be used again.

        Raises:
            DeadlineError: a read hangs, so that its thread did not end in time.
        """
        self._adopt()
        loop = self._loop
        if loop is not None and loop.assembler.stop():
            self._loop = None
        self._held.close()
        if self._loop is not None:
            raise DeadlineError(
                f"the loader is not closed after {self.options.timeout} s; {self._loop.assembler.where}"
            )

    def _adopt(self) -> None:
        """In a forked child, which has none of its parent's threads, leave these and their locks alone."""
        if os.getpid() != self._pid:
            self._pid, self._forked = os.getpid(), True
            self._loop = self._progress = None
            self._held.forget()
            # Its parent's lease keeps the layout.
            self._held = HeldLayout(self.repository, self.manifest, self.options, self._split)
            self.monitor = Monitor(self.memory)  # the lock of the parent's may be held by a thread that is not here

    def _check_idle(self, *, reading_only: bool = True) -> None:
        self._adopt()
        if self._forked and not (reading_only and self.repository.store.url.startswith("file:")):
            raise ConfigError(
                f"this loader was opened before its process forked, and the client of {self.repository.store.url} does "
                "not survive that; start the process by spawn or forkserver and open the loader there"
            )
        if self._loop is None:
            return
        if not self._loop.assembler.stopped:
            raise ConfigError("this loader is being iterated already; finish that loop or call close() first")
        if not self._loop.assembler.stop():
            raise DeadlineError(f"an earlier loop has not ended yet; {self._loop.assembler.where}")
        self._loop = None
