"""One loop over a loader: a planner, an assembler and the prefetcher at work on the rest of an epoch."""

import time
from dataclasses import dataclass
from typing import Any

from foreshard.loader.assembly import Assembler
from foreshard.loader.epoch_order import EpochOrder
from foreshard.loader.held import HeldLayout
from foreshard.loader.job import ChunkMemory
from foreshard.loader.options import LoaderOptions
from foreshard.loader.planning import WINDOW, Memory, Planner, Window
from foreshard.loader.progress import EpochProgress
from foreshard.loader.scheduling import EpochSchedule
from foreshard.loader.transforms import Transform, Transforms
from foreshard.memory import give_back
from foreshard.prefetch.control import Tuning


@dataclass
class Loop:
    """The rest of an epoch, or as much of it as the training loop takes.

    Attributes:
        held: the layout it reads.
        planner: plans its windows.
        assembler: makes its batches.
        progress: counts what the training loop receives.
        order: the epoch's order.
        left: batches still to come.
        moved: whether the loader has moved to another layout, so that the rest comes from another loop.
    """

    held: HeldLayout
    planner: Planner
    assembler: Assembler
    progress: EpochProgress
    order: EpochOrder
    left: int
    moved: bool = False

    def next_batch(self) -> tuple[int, Any]:
        """Return the next batch's step and the batch, transformed if it is to be, and count it.

        Raises:
            ForeshardError: as `Assembler.next_batch`.
            ConfigError: the order changed, although the epoch has begun.
            Exception: whatever the transform raised.
        """
        self.order.check()
        assembled, item, waited = self.assembler.next_batch()
        batch, sizes = assembled.batch, self.held.manifest.nbytes[assembled.chunks]
        self.progress.deliver(assembled, batch.step, batch.sample_ids, sizes, waited)
        self.left -= 1
        return batch.step, item

    def stop(self) -> bool:
        """Stop reading; return whether all threads have ended."""
        # Before the planner's thread, which the assembling one may be waiting for.
        stopped = self.assembler.stop()
        self.planner.close()
        self.held.prefetcher.pause()
        # A MIN that runs beside the loader cannot know how far a loop came that was left: it starts anew.
        self.held.ideal = self.planner.ideal if not self.left else None
        return stopped


def begin_loop(
    held: HeldLayout,
    schedule: EpochSchedule,
    step: int,
    *,
    order: EpochOrder,
    options: LoaderOptions,
    tuning: Tuning,
    progress: EpochProgress,
    transform: Transform | None = None,
) -> Loop:
    """Plan an epoch's first window from a step on, and set the threads to work.

    Raises:
        ConfigError: the order does not fit the dataset.
    """
    began = time.perf_counter()
    give_back()  # what the threads of the last loop left
    prefetcher = held.prefetcher
    held.schedules.begin(progress.epoch)
    held.keep()
    resident = prefetcher.resident()
    beyond = held.uses_beyond(resident, trusted=tuning.trusts_forecast)
    planner = Planner(
        schedule,
        step,
        Memory(prefetcher.region, held.manifest.nbytes, held.requests, beyond),
        depth=tuning.depth,
        resident=resident,
        ideal=held.ideal,
        window=WINDOW,
    )

    def coming(window: Window) -> None:
        prefetcher.extend(window.needed)

    first = planner.first()
    prefetcher.begin(first.needed, first.kept_at_start, ahead=first.ahead)
    assembler = Assembler(
        first,
        lambda: planner.next(coming),
        ChunkMemory(prefetcher, held.arena, held.gatherer),
        epoch=progress.epoch,
        depth=options.queue_batches,
        timeout=options.timeout,
        transforms=Transforms(transform, options.transform_threads) if transform is not None else None,
    )
    left = len(schedule.own_steps(step, schedule.steps))
    planner.prepare(coming)
    assembler.start()
    progress.plan_s += time.perf_counter() - began
    return Loop(held, planner, assembler, progress, order, left)
