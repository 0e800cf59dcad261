"""The loader for PyTorch: a dataset, and a ready DataLoader with a state; needs the extra `torch`.

    loader = data_loader(repository, order, LoaderOptions(global_batch=256), num_workers=2)
    for batch in loader:  # one epoch: a dict of tensors
        ...

Nothing here runs a collective, initialises a process group, or opens a store in a process that does not read.
"""

import pickle
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Final

from torch.utils.data import DataLoader, IterableDataset, get_worker_info  # noqa: TID253 - only who trains with PyTorch

from foreshard.errors import ConfigError
from foreshard.keys import LayoutRef
from foreshard.loader.batch import Batch
from foreshard.loader.closing import Closing
from foreshard.loader.one_loop import OneLoop
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import Order
from foreshard.loader.scratch import scratch_folder
from foreshard.loader.sending import UNSENT, name_unsent, pickled
from foreshard.loader.torch_dataset import TorchDataset
from foreshard.loader.torch_place import distributed_place
from foreshard.loader.torch_tensors import to_tensors
from foreshard.loader.torch_workers import dead_workers, end_workers, watch_workers
from foreshard.shards.repository import Repository

__all__ = ["StatefulDataLoader", "TorchDataset", "data_loader", "distributed_place", "to_tensors"]

_STARTING_S: Final = 180.0
"""Seconds that workers may take to start, import PyTorch and open the layout, beside the loader's own waits."""


class _Counted(IterableDataset[Any]):
    """What the workers of a `StatefulDataLoader` iterate: items with the step they belong to.

    Args:
        dataset: the dataset.
        notice: file with the state and order for the next iteration of workers that live on; None if none do.
    """

    def __init__(self, dataset: TorchDataset, notice: Path | None) -> None:
        self.dataset, self._notice = dataset, notice

    def __iter__(self) -> Generator[Any]:
        order = None
        if self._notice is not None and get_worker_info():
            state, order = pickle.loads(self._notice.read_bytes())  # noqa: S301 - in a folder of our own
            self.dataset.order = order or self.dataset.order
            self.dataset.load_state_dict(state)
        elif get_worker_info():
            order = self.dataset.changing_order()
        yield from self.dataset.read(order)


class StatefulDataLoader(DataLoader[Any], Closing):
    """A DataLoader whose state is what the training loop has received, whatever its workers have read ahead.

    Every iteration yields the rest of an epoch and then moves to the next. One loop at a time; one that is left in the
    middle of an epoch goes on there. Use it in a `with` block, or `close` it.

    Args:
        dataset: what to read.
        num_workers: reading processes; 0 to read in this one, by threads.
        pin_memory: as in `DataLoader`.
        multiprocessing_context: `fork`, `spawn`, `forkserver` or a context; the platform's default if left out.
        prefetch_factor: as in `DataLoader`.
        persistent_workers: keep workers, and what they hold in memory, from epoch to epoch.
        timeout: seconds that a worker's batch may take, start and opening included.
        options: further arguments of `DataLoader`.

    Raises:
        ConfigError: arguments that would change the order, or an access log with workers.
    """

    def __init__(
        self,
        dataset: TorchDataset,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        multiprocessing_context: Any = None,  # noqa: ANN401 - a name or a context
        prefetch_factor: int | None = None,
        persistent_workers: bool = True,
        timeout: float | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        own = {"batch_size", "shuffle", "sampler", "batch_sampler", "drop_last", "collate_fn", "in_order"} & {*options}
        if own:
            raise ConfigError(f"{', '.join(sorted(own))} cannot be given: the order and LoaderOptions decide it")
        if dataset.options.logging is not None and num_workers:
            raise ConfigError(
                f"access logging needs num_workers=0, not {num_workers}: each rank writes one log. The loader reads by "
                "threads of its own in any case"
            )
        self.source = dataset
        self._loops = OneLoop()
        self._notice = None
        if num_workers and persistent_workers:
            self._notice = scratch_folder(self, "workers") / "next"
        super().__init__(
            _Counted(dataset, self._notice),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            pin_memory=pin_memory,
            multiprocessing_context=multiprocessing_context,
            prefetch_factor=prefetch_factor,
            persistent_workers=bool(num_workers) and persistent_workers,
            timeout=_patience(dataset.options, timeout) if num_workers else 0,
            **options,
        )

    def __len__(self) -> int:
        """Return the number of batches of the current epoch."""
        return len(self.source)

    # A generator, which has all of an iterator, not a class of the DataLoader's own.
    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yield the rest of the current epoch, then move to the next one.

        Raises:
            ForeshardError: as `Loader` does.
            ConfigError: the order or the transform cannot be sent to workers.
            RuntimeError: a worker died, or sent nothing in time. The next loop starts other workers, and goes on where
                this one was.
        """
        loop = self._loops.begin()
        batches: Any = None
        try:
            if dead_workers(self._iterator):
                self._end_workers()
            self._tell_workers()
            batches = super().__iter__()
            watch_workers(batches)
            yield from self._received(batches, loop)
        except GeneratorExit:
            raise
        except BaseException as error:
            # A worker that dies while a batch is on its way breaks the connection that it is sent through.
            dead = dead_workers(batches, 0.2) if isinstance(error, OSError | EOFError) else []
            # Workers that have died, hang or were interrupted are of no use to the next loop: it would wait for them.
            self._end_workers()
            end_workers(batches)
            if batches is None and isinstance(error, UNSENT):  # the workers were not started
                name_unsent(error, order=self.source.order, transform=self.source.transform)
            if dead:
                raise RuntimeError(f"DataLoader worker (pid(s) {', '.join(dead)}) exited unexpectedly") from error
            raise
        finally:
            self._loops.end(loop)

    def _tell_workers(self) -> None:
        """Keep the epoch's order and write down, for workers that live on, where the next loop begins."""
        order = self.source.changing_order()
        if self._notice is not None:
            partial = self._notice.with_suffix(".partial")
            partial.write_bytes(pickled((self.source.state_dict(), order), order=order))
            partial.replace(self._notice)

    def _received(self, batches: Iterator[Any], loop: object) -> Generator[Any]:
        """Yield a loop's items and count them."""
        expected: tuple[int, int] | None = None
        for item, (epoch, step, run) in batches:
            assert expected in (None, (epoch, step)), f"{(epoch, step)} came instead of {expected}"
            expected = epoch, step + 1
            self.source.received(epoch, step, run)
            yield item
            self._loops.check(loop)

    @property
    def epoch_order(self) -> Order:
        """The current epoch's order, as `Loader.epoch_order`."""
        return self.source.epoch_order

    def state_dict(self) -> dict[str, Any]:
        """Return where the training loop stands; see `TorchDataset.state_dict`."""
        return self.source.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state with the next iteration; see `TorchDataset.load_state_dict`.

        Raises:
            ConfigError: it is no state, or this loader is being iterated.
        """
        self._loops.check_idle()
        self.source.load_state_dict(state)

    def set_epoch(self, epoch: int) -> None:
        """Start the given epoch (from 1) with the next iteration.

        Raises:
            ConfigError: there is no such epoch, or this loader is being iterated.
        """
        self._loops.check_idle()
        self.source.set_epoch(epoch)

    def report(self) -> str:
        """Return what was read so far, wherever; see `TorchDataset.report`."""
        return self.source.report()

    def close(self) -> None:
        """End the workers, or what reads in this process, and the loop that may be under way."""
        self._loops.end()
        self._end_workers()
        self.source.close()

    def _end_workers(self) -> None:
        """End the workers that live on; the next loop starts others."""
        iterator, self._iterator = self._iterator, None
        end_workers(iterator)


def data_loader(
    repository: Repository,
    order: Order,
    options: LoaderOptions,
    *,
    split: str = "train",
    layout: LayoutRef | None = None,
    transform: Callable[[Batch], Any] = to_tensors,
    **settings: Any,  # noqa: ANN401
) -> StatefulDataLoader:
    """Return a DataLoader that is ready to iterate.

    Args:
        repository: as in `TorchDataset`.
        order: as in `TorchDataset`.
        options: as in `TorchDataset`.
        split: as in `TorchDataset`.
        layout: as in `TorchDataset`.
        transform: as in `TorchDataset`.
        settings: arguments of `StatefulDataLoader`: `num_workers`, `pin_memory`, `multiprocessing_context`, ...

    Raises:
        ConfigError: options that cannot be used together.
    """
    dataset = TorchDataset(repository, order, options, split=split, layout=layout, transform=transform)
    return StatefulDataLoader(dataset, **settings)


def _patience(options: LoaderOptions, timeout: float | None) -> float:
    return 2 * options.timeout + _STARTING_S if timeout is None else timeout


def _as_it_is(item: Any) -> Any:  # noqa: ANN401
    return item
