"""Batches of an order as a PyTorch dataset, for any number of ranks and workers."""

import os
import pickle
import weakref
from collections.abc import Callable, Generator
from dataclasses import replace
from multiprocessing.util import Finalize
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info  # noqa: TID253 - only who trains with PyTorch

from foreshard.errors import ConfigError
from foreshard.keys import LayoutRef
from foreshard.loader.batch import Batch
from foreshard.loader.dealing import Place, epoch_steps
from foreshard.loader.described import DirectReader, LoaderDescription, Turn
from foreshard.loader.epoch_order import Standing
from foreshard.loader.epochs import EpochReport
from foreshard.loader.forked import ForkedReader
from foreshard.loader.loader import Loader
from foreshard.loader.one_loop import OneLoop
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import Order
from foreshard.loader.state import epoch_number
from foreshard.loader.torch_place import distributed_place
from foreshard.loader.torch_tensors import to_tensors
from foreshard.loader.worker_reports import KEPT, WorkerReports
from foreshard.shards.repository import Repository
from foreshard.splits import split_code


class TorchDataset(IterableDataset[Any], Standing):
    """Batches of an order as a PyTorch dataset; every iteration yields the rest of an epoch.

    Give it to a `DataLoader` with `batch_size=None`, and any `num_workers` and start method. Each worker opens a loader
    of its own with its share of the memory, and worker w of n yields every n-th batch, so that they come in step order.
    A worker that was forked reads through a process of its own, see `foreshard.loader.forked`.

    A plain DataLoader's parent process does not tell this object what it received: there, call `set_epoch` before each
    epoch, as with PyTorch's DistributedSampler. The one that `data_loader` returns counts, and needs no such call.

    Args:
        repository: the dataset's repository.
        order: which samples, in which sequence. Where its weights change, use `data_loader`.
        options: how to read; a rank's memory and fetches are shared by its workers. A `place` other than the default
            gives rank and world size instead of `distributed_place`.
        split: the split the order's population comes from.
        layout: the layout to read; by default the current one at each epoch's beginning.
        transform: makes of each batch what is yielded; a dict of tensors by default.

    Raises:
        ConfigError: options that cannot be used with workers or ranks.
    """

    def __init__(
        self,
        repository: Repository,
        order: Order,
        options: LoaderOptions,
        *,
        split: str = "train",
        layout: LayoutRef | None = None,
        transform: Callable[[Batch], Any] = to_tensors,
    ) -> None:
        split_code(split)
        if options.place.workers > 1:
            raise ConfigError(
                f"options.place has {options.place.workers} workers; give rank and world alone, as PyTorch sets workers"
            )
        if options.place == Place():
            options = replace(options, place=distributed_place())
        if options.dealing == "owner" and options.place.world > 1 and layout is None:
            raise ConfigError(
                f"dealing='owner' over {options.place.world} ranks needs layout=...: who reads what depends on the "
                "layout, and the current one may change between the ranks' looks at it"
            )
        self._repository: Repository | bytes = repository
        self._split, self._layout, self.transform = split, layout, transform
        self.order, self.options = order, options
        self._run: dict[str, Any] = {}
        self._loaded: dict[str, Any] | None = None
        self._pid = os.getpid()
        self._loops = OneLoop()  # in this process, where no worker reads
        self._reader: DirectReader | ForkedReader | None = None
        self._inherited: object = None
        self._reports = WorkerReports()
        self._reader_pid = self._pid

    @property
    def last_epoch(self) -> EpochReport | None:
        """How the last epoch went that this process or all of its DataLoader's workers read; None before one ended.

        Counters and seconds of workers are added up.
        """
        own = self._own_loader
        if own is not None:
            return own.last_epoch
        epochs = self._reports.epochs()
        return epochs[-1] if epochs else None

    def report(self) -> str:
        """Return the report of the loader that reads in this process, as `Loader.report` does, or of all workers.

        Workers tell of each epoch at its end, and the last 100 epochs are known; their seconds are added up.
        """
        own = self._own_loader
        if own is not None:
            return own.report()
        snapshot = self._reports.snapshot()
        if not snapshot.epochs:
            return "nothing was read in this process, and no DataLoader's workers have come to the end of an epoch"
        from foreshard.loader.live import report_text

        about = f"Of all workers of a DataLoader, the last {KEPT} epochs at most; their seconds are added up."
        return f"{about}\n{report_text(snapshot)}"

    @property
    def _own_loader(self) -> Loader | None:
        """The loader that reads in this process."""
        reader = self._reader
        return reader.loader if isinstance(reader, DirectReader) and self._reader_pid == os.getpid() else None

    def __len__(self) -> int:
        """Return the number of batches of the current epoch."""
        return self._steps(self._epoch)

    def __iter__(self) -> Generator[Any]:
        """Yield the rest of the current epoch, then move to the next one.

        Raises:
            ForeshardError: as `Loader` does.
        """
        for item, _ in self.read(None):
            yield item

    def read(self, order: Order | None) -> Generator[tuple[Any, tuple[int, int, dict[str, Any]]]]:
        """Yield what `__iter__` yields, each with its epoch, its step and the part of the state that no step changes.

        Args:
            order: for a worker, the epoch's order; None if it cannot have changed since this object was made.

        Raises:
            ForeshardError: as `Loader` does.
        """
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if not info:
            order = self.changing_order()
        elif order is not None:
            self.order = order
        state = self.state_dict()
        reader, loop = self._open(), None
        epoch = state["epoch"]
        if not info:
            loop = self._loops.begin()
        try:
            for batch, run in reader.read(Turn(state, worker, workers, order)):
                item = self.transform(batch)
                if not info:
                    self.received(batch.epoch, batch.step, run)
                yield item, (batch.epoch, batch.step, run)
        finally:
            if loop is not None:
                self._loops.end(loop)
        if info:
            self.set_epoch(epoch + 1)

    def changing_order(self) -> Order | None:
        """Return the current epoch's order, as it began, for whoever reads; None if it cannot change."""
        return None if self.order.fixed else self.begin_epoch().order

    def _open(self) -> DirectReader | ForkedReader:
        pid = os.getpid()
        if self._reader is not None and self._reader_pid != pid:
            # The parent's, which came along when this process forked: its threads did not, so it is left alone.
            self._inherited, self._reader = self._reader, None
        if self._reader is None:
            if isinstance(self._repository, bytes):
                self._repository = pickle.loads(self._repository)  # noqa: S301 - pickled by `__getstate__`
            repository: Any = self._repository
            description = LoaderDescription(
                repository,
                self.order,
                self.options,
                self._split,
                self._layout,
                self._reports if get_worker_info() else None,
            )
            self._reader = DirectReader(description) if pid == self._pid else ForkedReader(description)
            self._reader_pid = pid
            # DataLoader workers end without the interpreter's own clean-up; this is called there all the same.
            Finalize(None, _close, args=(weakref.ref(self._reader),), exitpriority=20)
        return self._reader

    def close(self) -> None:
        """Stop what reads in this process, and free its memory; the dataset may be used again."""
        self._loops.end()
        if self._reader is not None and self._reader_pid == os.getpid():
            self._reader.close()
            self._reader = None

    # -- state ----------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return where the training loop stands: a few values, counted by the batches it received.

        It is a `Loader`'s state, and may be loaded there; before any batch was received or state loaded it holds the
        epoch and step alone.
        """
        if self._loaded is not None:
            return dict(self._loaded)
        if not self._run:
            return {"epoch": self._epoch, "step": self._step}
        return {
            **self._run,
            "identity": self.epoch_order.identity(self._epoch),
            "epoch": self._epoch,
            "step": self._step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state, under any rank, world size, number of workers or layout.

        Whether it is a state of this order and dataset is checked when the layout is open, before the first batch.

        Raises:
            ConfigError: it is no state, or this process is reading.
        """
        self._loops.check_idle()
        epoch, step = state.get("epoch"), state.get("step")
        whole = step == 0 or "fingerprint" in state
        if not isinstance(epoch, int) or not isinstance(step, int) or epoch < 1 or step < 0 or not whole:
            raise ConfigError(f"loader state has epoch {epoch!r} and step {step!r}; give what state_dict() returned")
        self._loaded = dict(state) if "fingerprint" in state else None
        self._run = {}
        self._stand(epoch, step)

    def set_epoch(self, epoch: int) -> None:
        """Start the given epoch (from 1) at its first step next.

        Raises:
            ConfigError: that is no epoch's number, or this process is reading.
        """
        self._loops.check_idle()
        self._stand(epoch_number(epoch), 0)
        self._loaded = None

    def received(self, epoch: int, step: int, run: dict[str, Any]) -> None:
        """Count a batch as received.

        Args:
            epoch: its epoch.
            step: its step.
            run: the part of the state that no step changes.
        """
        last = step + 1 >= self._steps(epoch)
        self._epoch, self._step = (epoch + 1, 0) if last else (epoch, step + 1)
        self._run, self._loaded = run, None

    def _steps(self, epoch: int) -> int:
        return epoch_steps(self.order.length(epoch), self.options.global_batch, self.options.remainder)

    def __getstate__(self) -> dict[str, Any]:
        """Let another process read: it opens the store when it is asked for its first batch, not before."""
        repository = self._repository
        raw = repository if isinstance(repository, bytes) else pickle.dumps(repository)
        return {**self.__dict__, "_repository": raw, "_reader": None, "_inherited": None, "_loops": OneLoop()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pid = self._reader_pid = os.getpid()


def _close(reader: "weakref.ref[DirectReader | ForkedReader]") -> None:
    open_reader = reader()
    if open_reader is not None:
        open_reader.close()
