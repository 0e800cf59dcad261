"""The doctor's three runs of the same loop."""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, repeat
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError
from foreshard.keys import LayoutRef
from foreshard.loader.assembly import waiting_batches
from foreshard.loader.batch import Batch
from foreshard.loader.doctor.findings import QUEUES, Case, Diagnosis, Phase, PhaseName
from foreshard.loader.doctor.streams import CycleOrder, RunOrder, fitting_batches, neighbour_chunks
from foreshard.loader.loader import Loader
from foreshard.loader.loops import Loop
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import Order
from foreshard.prefetch.monitor import EpochStats
from foreshard.shards.repository import Repository
from foreshard.splits import split_code
from foreshard.storage import ObjectStore

Progress = Callable[[int, int], None]
"""Takes (steps done, steps in all)."""

_TOLD: Final = 100
"""Times that progress is told of, about."""
_WARM_BATCHES: Final = 64
"""Different batches that the run from memory reads in turn, at most."""
_STEPS: Final = 200
_MOST_STEPS: Final = 20_000
_LONG_S: Final = 0.3
"""Seconds that the steps measured in memory shall take where nobody said how many they are."""


class _SteadyLoader(Loader):
    """A loader in which no more batches wait than are left out of what is measured."""

    waiting: int | None = None

    def _begin(self) -> Loop:
        loop = super()._begin()
        loop.assembler.most = self.waiting
        return loop


@dataclass(frozen=True)
class Timed:
    """What the clock said of a loop; seconds as in `Phase`.

    Attributes:
        seconds: of the measured steps.
        waited_s: of these.
        first_s: until the first batch.
        total_s: from the first batch on.
        samples: in the measured steps.
        nbytes: of their batches.
    """

    seconds: float
    waited_s: float
    first_s: float
    total_s: float
    samples: int
    nbytes: int


class Examination:
    """Runs a training loop whose compute is a sleep, on one rank and without logs or leases: it changes nothing.

    Args:
        repository: the dataset's repository.
        order: the run's order.
        options: how the run reads; the memory by its rule where none is given.
        steps: steps to measure in each run; by default 200, or more if those are over before anything can be told.
        step_s: seconds of compute in a step; 0 for the loader's own rates.
        split: the split of the order's population.
        layout: the layout to read; the current one by default.

    Raises:
        ConfigError: a figure that cannot be used, or an order that is too short.
        BudgetError: the memory cannot hold what is needed to make progress.
        StorageError: the dataset has no published layout.
    """

    def __init__(
        self,
        repository: Repository,
        order: Order,
        options: LoaderOptions,
        *,
        steps: int | None = None,
        step_s: float = 0.0,
        split: str = "train",
        layout: LayoutRef | None = None,
    ) -> None:
        self._given = steps is not None
        steps = _STEPS if steps is None else steps
        if steps < 1 or not 0 <= step_s < float("inf"):
            raise ConfigError(f"{steps} steps of {step_s} s cannot be measured; use at least 1 step and 0 s")
        self._repository, self._split = repository, split
        self._steps, self._step_s = steps, step_s
        self._options = replace(options, logging=None, lease_ttl=0.0)
        self._order = RunOrder(order, options.global_batch, 1)
        with closing(Loader(repository, self._order, self._options, split=split, layout=layout)) as loader:
            self.manifest = loader.manifest
            self.memory = loader.memory

    # -- the runs -------------------------------------------------------------------------------------
    def in_memory(self, progress: Progress | None = None) -> Phase:
        """Read a few batches, whose chunks fit in the memory, in turn: after the first round nothing is fetched.

        Where the chunks of a single batch do not fit, this run alone has as much memory as they need. It is repeated
        with more steps, for the runs to come too, if it was too short and nobody said how many there shall be.
        """
        batch, manifest = self._options.global_batch, self.manifest
        most = min(_WARM_BATCHES, self._steps)
        # Half of the memory, as the loader sets a part of it aside for fetching ahead.
        count, used = fitting_batches(self._run, batch, most, manifest.chunk_of, manifest.nbytes, self.memory // 2)
        memory = max(self.memory, 2 * (used + 2 * self._largest))
        ids = self._run.ids(1, 0, count * batch)
        while True:
            lead = max(count, self._lead)
            order = CycleOrder(self._run.name, ids, (lead + self._steps) * batch)
            phase = self._measure("all in memory", order, memory, lead, progress)
            if self._given or phase.seconds >= _LONG_S or self._steps == _MOST_STEPS:
                return phase
            longer = 2 * _LONG_S / max(phase.seconds, _LONG_S / 10)
            self._steps = min(int(longer * self._steps), _MOST_STEPS)

    def compute_only(self, progress: Progress | None = None) -> Phase:
        """Hand out the same batch, which is in memory, again and again."""
        timed = run_loop(repeat(self._sample), 0, self._steps, self._step_s, progress)
        return self._phase("compute only", timed, 0, 0, None)

    def cold(self, progress: Progress | None = None) -> Phase:
        """Read the beginning of the run with the configured memory, empty at first."""
        run, lead = self._run, self._lead  # may read a batch
        forget_files(self._repository.store, [self.manifest.shards[i].key for i in self._cold_shards])
        return self._measure("cold", run, self.memory, lead, progress)

    def diagnose(self, compute_only: Phase, in_memory: Phase, cold: Phase) -> Diagnosis:
        """Return what the runs tell together."""
        manifest, options, mine = self.manifest, self._options, self._mine
        local = self._repository.store.local
        population = np.flatnonzero(mine[manifest.chunk_of])
        case = Case(
            layout=str(manifest.ref),
            order=self._run.name,
            batch=options.global_batch,
            step_s=self._step_s,
            concurrency=options.max_concurrency,
            local=local,
            all_columns=options.columns is None,
            columns=len(manifest.schema.names),
            sample_bytes=float(manifest.nbytes[mine].sum() / max(manifest.rows[mine].sum(), 1)),
            largest=self._largest,
            cold_bytes=int(manifest.nbytes[self._cold_chunks].sum()),
            neighbour_chunks=neighbour_chunks(population, options.global_batch, manifest.chunk_of),
            caches="the system was asked to forget the shards"
            if local
            else "those of the store's server stay as they are",
        )
        return Diagnosis(case, compute_only, in_memory, cold)

    def _measure(self, name: PhaseName, order: Order, memory: int, lead: int, progress: Progress | None) -> Phase:
        with closing(self._loader(order, memory, self._most)) as loader:
            timed = run_loop(loader, lead, self._steps, self._step_s, progress)
            # Set before the last batch is handed out.
            stats = loader.last_epoch.stats if loader.last_epoch is not None else None
        return self._phase(name, timed, lead, memory, stats)

    def _phase(self, name: PhaseName, timed: Timed, lead: int, memory: int, stats: EpochStats | None) -> Phase:
        return Phase(
            name,
            lead=lead,
            steps=self._steps,
            samples=timed.samples,
            nbytes=timed.nbytes,
            seconds=timed.seconds,
            waited_s=timed.waited_s,
            first_s=timed.first_s,
            total_s=timed.total_s,
            memory=memory,
            stats=stats,
        )

    def _loader(self, order: Order, memory: int, most: int | None = None) -> Loader:
        options = replace(self._options, memory=memory)
        loader = _SteadyLoader(self._repository, order, options, split=self._split, layout=self.manifest.ref)
        loader.waiting = most
        return loader

    # -- what they read -------------------------------------------------------------------------------
    @cached_property
    def _mine(self) -> NDArray[np.bool_]:
        return self.manifest.splits == split_code(self._split)

    @property
    def _largest(self) -> int:
        return int(self.manifest.nbytes[self._mine].max(initial=0))

    @property
    def _most(self) -> int:
        """Batches that may wait: a part of the steps measured, which would else be over before the queue is empty."""
        return max(self._options.queue_batches, self._steps // QUEUES)

    @property
    def _lead(self) -> int:
        """Steps until those batches are taken that were made while the loop had not begun: as many as may wait."""
        small = max(self._sample.rows.get_total_buffer_size(), 1)
        return min(waiting_batches(self._options.queue_batches, small), self._most)

    @property
    def _run(self) -> RunOrder:
        return self._order.of_length(self._lead + self._steps)

    @cached_property
    def _sample(self) -> Batch:
        length = self._options.global_batch
        order = CycleOrder(self._order.name, self._order.ids(1, 0, length), length)
        with closing(self._loader(order, self.memory)) as loader:
            return next(iter(loader))

    @cached_property
    def _cold_chunks(self) -> NDArray[np.int32]:
        return np.unique(self.manifest.chunk_of[self._run.ids(1, 0, self._run.length(1))])

    @property
    def _cold_shards(self) -> list[int]:
        return np.unique(self.manifest.shard_of[self._cold_chunks]).tolist()


def run_loop(
    batches: Iterable[Batch],
    lead: int,
    steps: int,
    step_s: float,
    progress: Progress | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Timed:
    """Run a training loop whose compute is a sleep, and time all of it but the lead.

    Args:
        batches: at least lead + steps of them.
        lead: steps that are not measured.
        steps: steps that are.
        step_s: seconds to sleep in each.
        progress: takes (done, total).
        clock: seconds, ever ascending.
        sleep: passes the time.
    """
    total = lead + steps
    stride = max(total // _TOLD, 1)  # showing every step would take time itself
    begun = measured = clock()
    first_s = waited = 0.0
    samples = nbytes = 0
    asked = begun
    for i, batch in enumerate(islice(batches, total)):
        got = clock()
        if not i:
            first_s = got - begun
        if i >= lead:
            waited += got - asked
            samples += len(batch)
            nbytes += batch.rows.nbytes
        if step_s:
            sleep(step_s)
        if progress is not None and not (total - i - 1) % stride:
            progress(i + 1, total)
        asked = clock()
        if i + 1 == lead:
            measured = asked
    return Timed(asked - measured, waited, first_s, asked - begun - first_s, samples, nbytes)


def forget_files(store: ObjectStore, keys: Iterable[str]) -> None:
    """Ask the system to drop a local store's objects from its page cache; does nothing for other stores."""
    advise = getattr(os, "posix_fadvise", None)  # not on macOS
    if advise is None:
        return
    for key in keys:
        path = store.local_path(key)
        if path is None:
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            advise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
