"""What a process needs to open a loader by itself, and reading by such a loader from any step on."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from foreshard.keys import LayoutRef
from foreshard.loader.batch import Batch
from foreshard.loader.dealing import Place
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions, check_options
from foreshard.loader.order import Order, check_order
from foreshard.loader.worker_reports import WorkerReports
from foreshard.shards.repository import Repository

if TYPE_CHECKING:
    from foreshard.loader.epochs import EpochReport

_POSITION: Final = ("identity", "epoch", "step")


@dataclass(frozen=True)
class Turn:
    """What one worker reads next.

    Attributes:
        state: where to begin: a loader's state, or just `epoch` and step 0.
        worker: which of the workers this is; worker w takes every n-th step from the w-th of those to come.
        workers: how many there are, n.
        order: the order as it is now; None if it cannot have changed.
    """

    state: dict[str, Any]
    worker: int = 0
    workers: int = 1
    order: Order | None = None


@dataclass(frozen=True)
class LoaderDescription:
    """A loader that is not open yet; it can be pickled if its store can be opened by other processes.

    Attributes:
        repository: as in `Loader`.
        order: as in `Loader`.
        options: as in `Loader`, for a whole rank.
        split: as in `Loader`.
        layout: as in `Loader`.
        reports: takes what the loader did in each epoch; None where nobody asks other processes.
    """

    repository: Repository
    order: Order
    options: LoaderOptions
    split: str
    layout: LayoutRef | None
    reports: WorkerReports | None = None

    def __post_init__(self) -> None:
        check_order(self.order, "order")
        check_options(self.options)

    def open(self, place: Place) -> Loader:
        """Open the loader of one of a rank's workers, with its share of the rank's memory and fetches."""
        options, share = self.options, place.workers
        mine = replace(
            options,
            place=place,
            memory=None if options.memory is None else max(options.memory // share, 1),
            cache_fraction=options.cache_fraction / share,
            max_concurrency=-(-options.max_concurrency // share),
        )
        return Loader(self.repository, self.order, mine, split=self.split, layout=self.layout)


class DirectReader:
    """Reads in this process, by a loader that is opened with the first batch.

    Args:
        description: the loader.
    """

    def __init__(self, description: LoaderDescription) -> None:
        self._description = description
        self._loader: Loader | None = None
        self._told: EpochReport | None = None

    @property
    def loader(self) -> Loader | None:
        """The loader, once it is open."""
        return self._loader

    def read(self, turn: Turn) -> Generator[tuple[Batch, dict[str, Any]]]:
        """Yield the rest of an epoch, each batch with the part of a loader's state that no step changes.

        Before the first step of an epoch the loader goes to the current layout unless one was asked for.

        Raises:
            ForeshardError: as `Loader` does.
        """
        loader = self._at(turn)
        run = {name: value for name, value in loader.state_dict().items() if name not in _POSITION}
        batches: Any = iter(loader)  # a generator
        with closing(batches):
            for batch in batches:
                self._tell(loader)
                yield batch, run
            self._tell(loader)  # of an epoch without a batch for this worker

    def _tell(self, loader: Loader) -> None:
        """Tell of the epoch that has just ended, if one has."""
        report, reports, place = loader.last_epoch, self._description.reports, loader.options.place
        if reports is not None and report is not None and report is not self._told:
            self._told = report
            reports.write(report, loader.memory, place.worker, place.workers)

    def _at(self, turn: Turn) -> Loader:
        state, about = turn.state, self._description
        # The first worker is asked for the first batch, wherever in the epoch that is.
        worker = (turn.worker + state["step"]) % turn.workers
        place = replace(about.options.place, worker=worker, workers=turn.workers)
        loader = self._loader
        if loader is not None and loader.options.place != place:
            self.close()
            loader = None
        if loader is None:
            loader = self._loader = about.open(place)
        elif about.layout is None and not state["step"]:
            loader.refresh()
        if turn.order is not None:
            loader.order = turn.order
        if "fingerprint" in state:
            loader.load_state_dict(state)
        else:
            loader.set_epoch(state["epoch"])
        return loader

    def close(self) -> None:
        """Close the loader; the next `read` opens another."""
        loader, self._loader = self._loader, None
        if loader is not None:
            loader.close()
