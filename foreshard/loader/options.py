"""How a loader reads: one validated record, separate from what it reads."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final, get_args

from foreshard.arguments import column_names, finite_number, number_above_0, whole_number
from foreshard.errors import ConfigError
from foreshard.keys import check_name
from foreshard.loader.corrupt import OnCorrupt
from foreshard.loader.dealing import SINGLE, Dealing, Place, Remainder

_COUNTS: Final = ("global_batch", "queue_batches", "max_concurrency", "transform_threads")


@dataclass(frozen=True)
class Logging:
    """Where a loader reports what it read.

    Attributes:
        run: name of the training job.
        write_id: names this attempt; a resumed attempt takes a new one, so that logs of both never mix.
        phases: parts an epoch is divided into.
    """

    run: str
    write_id: str
    phases: int = 4

    def __post_init__(self) -> None:
        for name, what in (("run", "run"), ("write_id", "write id")):
            value: object = getattr(self, name)
            if not isinstance(value, str):
                raise ConfigError(f"{what} name {value!r} is of type {type(value).__name__}; give a str")
            check_name(value, what)
        _set(self, phases=whole_number(self.phases, "phases", least=1))


@dataclass(frozen=True)
class DiskTier:
    """A folder on the machine's own disk for chunks, beside the memory; every loader that names it shares it.

    Attributes:
        folder: on an NVMe drive, say, or in `/dev/shm`, but not on a network file system; made if missing.
        nbytes: bytes of chunks that it may hold, for all ranks and workers of the machine together. The manifests of
            the last layouts lie beside them, about 70 bytes a chunk and 8 a sample.
    """

    folder: str
    nbytes: int

    def __post_init__(self) -> None:
        given: Any = self.folder
        folder = str(given) if isinstance(given, (str, PurePath)) else ""
        if not folder:
            raise ConfigError(f"a disk tier needs a folder, not {self.folder!r}; name one on a disk of this machine")
        nbytes = whole_number(self.nbytes, f"the disk tier in {folder!r}: nbytes", least=1)
        _set(self, folder=folder, nbytes=nbytes)


@dataclass(frozen=True)
class LoaderOptions:
    """Settings of a `Loader`; none of them changes the order of samples.

    Attributes:
        global_batch: samples per step over all ranks.
        place: rank, world size and worker.
        dealing: `position` gives every rank an equal share of each batch; `owner` gives it the samples whose chunks
            its node holds, so that nodes do not fetch each other's chunks and shares differ by a few samples.
        remainder: what happens to a last short batch: `drop` it, `keep` it short, or `pad` it from the epoch's start.
            A short one is dealt like any other: equal shares by position, so that a rank's is empty only if the batch
            has fewer samples than there are ranks. A mean over an empty batch is NaN: skip it there, but take part in
            the collectives.
        columns: source columns to return, all by default; `sample_id` always comes with them.
        memory: bytes for chunks; by default `cache_fraction` of what this rank's node holds of the split, and four of
            its largest chunks at least. `data_loader` divides them by its workers, and each takes that least by itself.
        cache_fraction: see `memory`.
        queue_batches: assembled batches that may wait for the training loop, beside the memory for chunks; as many as
            take 2 MiB if those are more and nothing transforms them.
        max_concurrency: most fetches in flight at a time; the loader finds out how many pay.
        transform_threads: batches that a loader's `transform` is applied to at a time.
        timeout: seconds any wait may last.
        lease_ttl: seconds for which gc still spares the layout once this process is gone. While it lives the loader
            renews a small object in the store; 0 for none, as with credentials that may only read: then `retention` in
            `foreshard.yaml` alone keeps the layout.
        on_corrupt: what happens when a chunk's bytes do not verify: `raise` at once, `refetch` and raise if they still
            do not, or after that `substitute` the rows of another chunk, the same in every run; see `CorruptionGuard`.
        logging: where to report accesses; None to report nothing.
        disk: where chunks are kept on this machine's disk for all of its processes; None for nowhere.
    """

    global_batch: int
    place: Place = SINGLE
    dealing: Dealing = "position"
    remainder: Remainder = "drop"
    columns: tuple[str, ...] | None = None
    memory: int | None = None
    cache_fraction: float = 0.1
    queue_batches: int = 8
    max_concurrency: int = 16
    transform_threads: int = 2
    timeout: float = 60.0
    lease_ttl: float = 600.0
    on_corrupt: OnCorrupt = "refetch"
    logging: Logging | None = None
    disk: DiskTier | None = None

    def __post_init__(self) -> None:
        _set(self, **{name: whole_number(getattr(self, name), name, least=1) for name in _COUNTS})
        _set(self, **{name: number_above_0(getattr(self, name), name) for name in ("timeout", "cache_fraction")})
        _set(self, lease_ttl=finite_number(self.lease_ttl, "lease_ttl"), columns=column_names(self.columns))
        if self.memory is not None:
            _set(self, memory=whole_number(self.memory, "memory", least=1))
        if self.lease_ttl and self.lease_ttl < 1:
            raise ConfigError(f"lease_ttl {self.lease_ttl} must be at least 1 s, or 0 for no lease")
        for name, kind in (("place", Place), ("logging", Logging), ("disk", DiskTier)):
            value = getattr(self, name)
            if not isinstance(value, kind) and (value is not None or name == "place"):
                raise ConfigError(f"{name} {value!r} is of type {type(value).__name__}; give a {kind.__name__}(...)")
        if self.global_batch < self.place.world:
            raise ConfigError(f"global batch {self.global_batch} gives some of {self.place.world} ranks no sample")
        if self.dealing not in ("position", "owner"):
            raise ConfigError(f"dealing {self.dealing!r} is unknown; use 'position' or 'owner'")
        if self.remainder not in ("drop", "keep", "pad"):
            raise ConfigError(f"remainder {self.remainder!r} is unknown; use 'drop', 'keep' or 'pad'")
        if self.on_corrupt not in get_args(OnCorrupt):
            raise ConfigError(
                f"on_corrupt {self.on_corrupt!r} is unknown; use {', '.join(map(repr, get_args(OnCorrupt)))}"
            )
        if self.logging is not None and self.place.workers > 1:
            raise ConfigError(
                "access logging needs workers=1: each rank writes one log; log from the rank's own loader"
            )


def check_options(options: "LoaderOptions") -> "LoaderOptions":
    """Return options, or refuse what are none, such as a dict of them.

    Raises:
        ConfigError: they are no `LoaderOptions`.
    """
    given: Any = options
    if not isinstance(given, LoaderOptions):
        raise ConfigError(f"options is of type {type(given).__name__}; give LoaderOptions(global_batch=...)")
    return options


def _set(record: object, **values: Any) -> None:  # noqa: ANN401 - of many types
    """Set fields of a frozen record while it is made."""
    for name, value in values.items():
        object.__setattr__(record, name, value)
