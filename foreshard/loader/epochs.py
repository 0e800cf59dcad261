"""Closing an epoch: logs made durable, then the epoch marker that tells the control loop so."""

from collections.abc import Sequence
from dataclasses import dataclass

from foreshard.access.log import AccessLogWriter
from foreshard.access.markers import EpochMarker, read_marker, write_marker
from foreshard.errors import ConfigError, LogError
from foreshard.keys import LayoutRef
from foreshard.loader.options import Logging
from foreshard.prefetch.monitor import EpochStats
from foreshard.shards.repository import Repository


@dataclass(frozen=True)
class EpochReport:
    """What one loader did in one epoch.

    Attributes:
        epoch: the epoch, from 1.
        rank: the reader.
        world: number of readers.
        steps: optimizer steps of the epoch.
        layout: the layout it read.
        stats: what it achieved.
        log: its access log, not yet durable; None if it logs nothing.
    """

    epoch: int
    rank: int
    world: int
    steps: int
    layout: LayoutRef
    stats: EpochStats
    log: AccessLogWriter | None


def mark_epoch(repository: Repository, settings: Logging, reports: Sequence[EpochReport]) -> EpochMarker:
    """Write the logs of all ranks and then the create-only epoch marker.

    The loader runs no collective: where ranks are processes of their own, gather their reports' `log.close()` by the
    framework's means first. Marking an epoch that is marked already writes nothing, so a resumed run may repeat it.

    Args:
        repository: the dataset's repository.
        settings: the run and attempt.
        reports: one per rank, all of the same epoch and layout.

    Returns:
        The marker that stands: ours, or the one of an earlier attempt.

    Raises:
        LogError: the reports are not of one epoch and layout, or a rank or its log is missing.
        ConfigError: an argument is something else.
    """
    _check(settings, reports)
    if not reports:
        raise LogError("no epoch can be marked without reports; give Loader.last_epoch of every rank, after its epoch")
    first = reports[0]
    ranks = sorted(report.rank for report in reports)
    if ranks != list(range(first.world)) or any((r.epoch, r.layout) != (first.epoch, first.layout) for r in reports):
        raise LogError(
            f"epoch {first.epoch} cannot be marked: the reports of ranks {ranks} are not those of all {first.world} "
            "ranks of one epoch and layout"
        )
    writers = [report.log for report in reports if report.log is not None]
    if len(writers) < len(reports):
        raise LogError(f"epoch {first.epoch} cannot be marked: a rank kept no access log; give LoaderOptions.logging")
    store, keys = repository.store, repository.keys
    if store.exists(keys.marker(settings.run, first.epoch)):
        return read_marker(store, keys, settings.run, first.epoch)
    logs = tuple(obj for writer in writers for obj in writer.close())
    marker = EpochMarker(
        run=settings.run,
        epoch=first.epoch,
        generation=first.layout.generation,
        plan_digest=first.layout.plan_digest,
        world_size=len(reports),
        steps=first.steps,
        phases=min(settings.phases, first.steps),
        write_id=settings.write_id,
        logs=logs,
        draws=sum(report.stats.samples for report in reports),
    )
    return write_marker(store, keys, marker)


def _check(settings: object, reports: object) -> None:
    if not isinstance(settings, Logging):
        raise ConfigError(f"settings is of type {type(settings).__name__}; give the Logging of the loader's options")
    if not isinstance(reports, Sequence):
        raise ConfigError(f"reports is of type {type(reports).__name__}; give a list, [loader.last_epoch]")
    for i, report in enumerate(reports):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        if not isinstance(report, EpochReport):
            raise ConfigError(
                f"report {i} is {report!r}; give Loader.last_epoch of every rank, which is None until its first epoch "
                "has ended"
            )
