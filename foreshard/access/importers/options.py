"""What the caller may say about a log."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from foreshard.errors import ConfigError

ObjectType = Literal["auto", "int", "text"]
Requests = Literal["auto", "samples", "reads"]


@dataclass(frozen=True)
class Options:
    """Options of an import; those that a format does not know must keep their defaults.

    Attributes:
        object_column: CSV, Parquet: column that names the object.
        time_column: CSV, Parquet: column with the time of the request.
        epoch_column: CSV, Parquet: column with the epoch.
        size_column: CSV, Parquet: column with the object's bytes.
        object_type: CSV, Parquet: whether objects are integers from 0 or texts; with `auto` they are integers if all
            of them are, else texts, spelled as in the log.
        header: CSV: whether the first line names the columns, which else are called 0, 1, ...; None: the line tells.
        extent: LIS: pages of 512 bytes that make one object.
        requests: DFTracer: what is a request: a sample, a read of a file, or `auto`: samples if there are any.
    """

    object_column: str | None = None
    time_column: str | None = None
    epoch_column: str | None = None
    size_column: str | None = None
    object_type: ObjectType = "auto"
    header: bool | None = None
    extent: int = 1
    requests: Requests = "auto"

    def __post_init__(self) -> None:
        """Refuse words that are none of the choices.

        Raises:
            ConfigError: names the word and the choices.
        """
        for name, given, choices in (
            ("object_type", self.object_type, get_args(ObjectType)),
            ("requests", self.requests, get_args(Requests)),
        ):
            if given not in choices:
                raise ConfigError(f"{name} {given!r} is unknown; choose one of {', '.join(choices)}")

    def only(self, format: str, known: frozenset[str]) -> None:  # noqa: A002 -- the word of the command line
        """Refuse options that the format does not know.

        Raises:
            ConfigError: names them.
        """
        changed = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        foreign = sorted(set(changed) - known)
        if foreign:
            raise ConfigError(f"format {format!r} knows no option {', '.join(foreign)}; leave it out")


COLUMN_OPTIONS = frozenset({"object_column", "time_column", "epoch_column", "size_column", "object_type"})
