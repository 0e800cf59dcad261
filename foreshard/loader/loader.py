"""The loader: hands a training loop the batches of an order, from memory wherever the order or a forecast allows."""

import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from foreshard.errors import ConfigError, DeadlineError
from foreshard.keys import LayoutRef
from foreshard.loader.closing import Closing
from foreshard.loader.corrupt import Substitution
from foreshard.loader.epoch_order import Standing
from foreshard.loader.haste import Ending
from foreshard.loader.held import HeldLayout, check_move, hold_layout
from foreshard.loader.loops import Loop, begin_loop
from foreshard.loader.observed import Observed
from foreshard.loader.one_loop import ITERATED
from foreshard.loader.options import LoaderOptions, check_options
from foreshard.loader.order import Order, check_order
from foreshard.loader.progress import EpochProgress, begin_epoch
from foreshard.loader.scheduling import EpochSchedule
from foreshard.loader.state import epoch_number, read_state, write_state
from foreshard.loader.transforms import Transform
from foreshard.prefetch.control import Tuning, adjust
from foreshard.prefetch.monitor import Monitor
from foreshard.shards.manifest import Manifest
from foreshard.shards.repository import Repository
from foreshard.splits import split_code

if TYPE_CHECKING:
    from foreshard.loader.epochs import EpochReport

_WARM_SHARE: Final = 0.9
"""Of the memory: the rest is for what the first steps need beside what the forecast expects."""


class Loader(Observed, Standing, Closing):
    """Reads a dataset in a fixed order, whatever layout its bytes have. Use it in a `with` block, or `close` it.

    No thread runs before the first batch is asked for (or `warm`), and no collective ever. A process forked afterwards
    may go on reading from a local folder, with threads and memory of its own; the clients of other stores do not
    survive a fork, so reading there is refused. A loader can move to a newer layout (`refresh`) without changing the
    order. `last_epoch` tells how the last epoch went, and is set before its last batch is handed out; `report`,
    `live` and `prometheus` show the figures of all epochs (see `Observed`).

    Args:
        repository: the dataset's repository.
        order: which samples, in which sequence.
        options: how to read.
        split: the split the order's population comes from; sizes the memory.
        layout: the layout to read; the current one by default.
        transform: makes of each batch what is yielded. It is called in threads (`transform_threads`), ahead of the
            training loop, and changes no sequence; one thread calls it for one batch.

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
        transform: Transform | None = None,
    ) -> None:
        self.order = check_order(order, "order")
        self._transform = transform
        self.options = check_options(options)
        self.repository = repository
        self._split = split_code(split)
        self.last_epoch: EpochReport | None = None
        self._tuning, self._ending = Tuning(), Ending()
        self._pid, self._forked = os.getpid(), False
        self._loop: Loop | None = None
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

    @property
    def substituted(self) -> Mapping[int, Substitution]:
        """By chunk of this layout, what is read in place of corrupt ones; it grows. See `LoaderOptions.on_corrupt`."""
        return self._held.corruption.substituted

    def refresh(self, layout: LayoutRef | None = None) -> bool:
        """Move to another layout (the current one by default) and warm up from its prefetch manifest.

        The order, and so what the training loop sees, stays the same. Inside a loop over this loader, call it in the
        loop's thread between two batches: the next batch comes from the new layout, and what was read ahead is read
        again there.

        Returns:
            Whether the layout changed.

        Raises:
            ConfigError: the layout is of another snapshot or lacks a column, or samples are dealt by owner in the
                middle of an epoch: other ranks would deal by another layout.
            BudgetError: the memory cannot hold the new layout's chunks. As with the errors above, the loader can still
                read the old layout.
        """
        self._check_process()
        current = None if layout else self.repository.current()
        if self.layout == (layout or (current and current.ref)):
            return False
        held = hold_layout(self.repository, layout, self.options, self._split)
        loop, progress, old = self._loop, self._progress, self._held
        try:
            if held.manifest.ref == self.layout:
                held.close()
                return False
            check_move(self.manifest, held.manifest, self.options, self._epoch, self._step)
            self.close()
        except BaseException:
            held.close()
            raise
        if loop is not None:
            loop.moved = True
        if progress is not None:
            progress.move(held.manifest, old.take_traffic())
        self._held = held
        self.monitor.budget = self.memory
        self._held.keep()
        self._warm()
        return True

    def warm(self) -> int:
        """Begin to fetch what the prefetch manifests of this rank's nodes suggest, before the next order is known.

        Call it between epochs.

        Returns:
            The number of chunks asked for; 0 if the layout has no prefetch manifest for these nodes.

        Raises:
            ConfigError: the loader is being iterated.
        """
        self._check_process()
        self._check_idle()
        self._held.keep()
        return self._warm()

    def _warm(self) -> int:
        return self._held.warm(share=self._tuning.forecast * _WARM_SHARE)

    # -- reading --------------------------------------------------------------------------------------
    def __iter__(self) -> Iterator[Any]:
        """Yield the rest of the current epoch as `Batch`es or what `transform` made of them, then move to the next one.

        Raises:
            DeadlineError: no batch was ready in time.
            ConfigError: another loop over this loader is under way, or the order does not fit the dataset.
            StorageError: a chunk cannot be read.
            CorruptDataError: a chunk's bytes are not those that were written.
            Exception: whatever the transform raised, at its batch's turn.
        """
        self._check_idle()
        loop, soon = self._begin(), False
        try:
            if not loop.left:  # this worker has no step
                self._finish(loop)
            while loop.left:
                step, batch = loop.next_batch()
                self._step = step + 1
                if not loop.left:
                    self._finish(loop)
                yield batch
                if loop.moved:
                    loop = self._begin()
        except (KeyboardInterrupt, SystemExit):
            soon = True
            raise
        finally:
            # After `close` another loop may be under way; a forked child has no thread to stop. When the interpreter
            # ends, threads stop wherever they are: one may hold the lock for ever.
            if self._loop is loop and os.getpid() == self._pid and not sys.is_finalizing():
                self._leave(loop, soon=soon)

    def _begin(self) -> Loop:
        epoch, progress = self._epoch, self._progress
        order, cache = self.begin_epoch(), self._held.schedules
        schedule = EpochSchedule(order.order, self.manifest, self.options, split=self._split, epoch=epoch, cache=cache)
        if progress is None or progress.epoch != epoch:
            progress = begin_epoch(self.repository, self.options, self.layout, epoch, schedule.steps)
        self._loop = begin_loop(
            self._held,
            schedule,
            self._step,
            order=order,
            options=self.options,
            tuning=self._tuning,
            progress=progress,
            transform=self._transform,
        )
        self._progress = progress
        progress.watch(self.monitor, self._step)
        return self._loop

    def _leave(self, loop: Loop, *, soon: bool = False) -> None:
        """End a loop, wherever it stands; its progress stays. After Ctrl-C, soon: the next loop waits for the rest."""
        if self._ending.stop_soon(loop) if soon else self._ending.stop(loop):
            self._loop = None

    def _finish(self, loop: Loop) -> None:
        """End the loop and its epoch."""
        self._leave(loop)
        self.last_epoch = loop.progress.report(self._held.take_traffic(), self.options.place)
        self.monitor.trouble = self._held.trouble
        self.monitor.epoch(self.last_epoch.stats)
        self._tuning = adjust(self._tuning, self.last_epoch.stats)
        self._go_to(loop.progress.epoch + 1, 0)

    # -- state ----------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return where the training loop stands: a few numbers, counted by the batches it received."""
        return write_state(self.epoch_order, self.manifest, self.options, self._epoch, self._step)

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
            ConfigError: that is no epoch's number, or the loader is being iterated.
        """
        self._check_idle()
        self._go_to(epoch_number(epoch), 0)

    def _go_to(self, epoch: int, step: int) -> None:
        self._progress = None
        self._stand(epoch, step)

    def close(self) -> None:
        """Stop the threads and free the memory; the loader may be used again.

        Raises:
            DeadlineError: a read hangs, so that its thread did not end in time.
        """
        self._adopt()
        if self._loop is not None:
            self._leave(self._loop)
        self._held.close()
        if self._loop is not None:
            raise DeadlineError(
                f"the loader is not closed after {self.options.timeout} s; {self._loop.assembler.where}"
            )

    def _adopt(self) -> None:
        """In a forked child, which has none of its parent's threads, leave these and their locks alone."""
        if os.getpid() != self._pid:
            self._pid, self._forked = os.getpid(), True
            self._loop, self._progress, self._ending = None, None, Ending()
            self._held.forget()
            # Its parent's lease keeps the layout.
            self._held = HeldLayout(self.repository, self.manifest, self.options, self._split)
            self.monitor = Monitor(self.memory)  # the lock of the parent's may be held by a thread that is not here

    def _check_process(self, *, reading_only: bool = False) -> None:
        self._adopt()
        if self._forked and not (reading_only and self.repository.store.url.startswith("file:")):
            raise ConfigError(
                f"this loader was opened before its process forked, and the client of {self.repository.store.url} does "
                "not survive that; start the process by spawn or forkserver and open the loader there"
            )

    def _check_idle(self) -> None:
        self._check_process(reading_only=True)
        if self._loop is None:
            return
        if not self._loop.assembler.stopped:
            raise ConfigError(ITERATED)
        if not self._ending.stop(self._loop):
            raise DeadlineError(f"an earlier loop has not ended yet; {self._loop.assembler.where}")
        self._loop = None
