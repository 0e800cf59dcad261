"""What an access log holds: the two tables a rank writes per epoch, the header in each file, and its entry in a marker.

*Events* tell which chunk was touched at which step and what that cost; *samples* tell which sample was drawn how often
in which phase. Samples are what forecasts are made of: unlike chunk ids, sample ids mean the same in every layout.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import LogError

LogKind = Literal["events", "samples"]

KINDS: Final[tuple[LogKind, LogKind]] = ("events", "samples")
"""Every rank writes one object of each kind per epoch, even if it is empty."""

FORMAT: Final = 1
"""Version of the log format; files of another one are refused."""

_NAME_TYPE: Final = pa.dictionary(pa.int32(), pa.string())

EVENT_SCHEMA: Final = pa.schema(
    [
        ("run", _NAME_TYPE),
        ("generation", _NAME_TYPE),
        ("epoch", pa.int32()),
        ("rank", pa.int16()),
        ("step", pa.int32()),
        ("phase", pa.int16()),
        ("chunk", pa.int32()),
        ("hit", pa.bool_()),
        ("bytes", pa.int32()),
        ("wait_us", pa.int32()),
        ("fetch_us", pa.int32()),
    ]
)
"""One row per (step, chunk touched): was it in memory, its bytes, the loop's wait and its fetch in microseconds."""

SAMPLE_SCHEMA: Final = pa.schema(
    [("epoch", pa.int32()), ("phase", pa.int16()), ("sample_id", pa.int64()), ("count", pa.int32())]
)
"""One row per (phase, sample drawn by this rank) with the number of draws."""

SCHEMAS: Final[Mapping[LogKind, pa.Schema]] = {"events": EVENT_SCHEMA, "samples": SAMPLE_SCHEMA}

_HEADER: Final = b"foreshard"


@dataclass(frozen=True)
class LogObject:
    """One log object as a marker lists it.

    Attributes:
        key: where it lies in the store.
        kind: `events` or `samples`.
        rank: who wrote it.
        size: bytes of the object.
        sha256: hexadecimal digest of its content.
        rows: rows of its table.
    """

    key: str
    kind: LogKind
    rank: int
    size: int
    sha256: str
    rows: int


@dataclass(frozen=True)
class LogHeader:
    """What a log file says of itself, in its Parquet metadata.

    Attributes:
        kind: `events` or `samples`.
        run: the training job.
        epoch: the epoch that was trained, from 1.
        rank: the writer's rank.
        generation: the layout generation that was read.
        write_id: names the attempt.
        steps: optimizer steps of the epoch.
        phases: equal parts the epoch is divided into.
        recorded: half-open ranges of the steps that were logged, whether they touched anything or not.
    """

    kind: LogKind
    run: str
    epoch: int
    rank: int
    generation: str
    write_id: str
    steps: int
    phases: int
    recorded: tuple[tuple[int, int], ...]

    def to_metadata(self) -> dict[bytes, bytes]:
        """Return the header as schema metadata."""
        return {_HEADER: json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True).encode()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None) -> "LogHeader":
        """Read the header of a log file.

        Raises:
            LogError: there is none, or it is not of this format.
        """
        text = (metadata or {}).get(_HEADER)
        if text is None:
            raise LogError("has no foreshard header; it was not written by AccessLogWriter")
        try:
            raw = cast("dict[str, Any]", json.loads(text))
            if raw.pop("format") != FORMAT:
                raise LogError(f"is of another log format than {FORMAT}; read it with the foreshard that wrote it")
            raw["recorded"] = tuple((int(start), int(stop)) for start, stop in raw["recorded"])
            return cls(**raw)
        except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            raise LogError(f"has a header that cannot be read ({error!r})") from error


def phase_of(steps_taken: NDArray[np.integer[Any]], steps: int, phases: int) -> NDArray[np.int16]:
    """Return the phase of each step: `step * phases // steps`.

    Args:
        steps_taken: shape (k,), step numbers 0..steps-1.
        steps: optimizer steps of the epoch.
        phases: parts of the epoch.

    Returns:
        Shape (k,) of int16.
    """
    return (np.asarray(steps_taken, np.int64) * phases // steps).astype(np.int16)


def step_ranges(steps_taken: NDArray[np.integer[Any]]) -> tuple[tuple[int, int], ...]:
    """Return distinct steps as half-open ranges in ascending order.

    Args:
        steps_taken: shape (k,), in any order, repeats allowed.
    """
    distinct = np.unique(np.asarray(steps_taken, np.int64))
    if not len(distinct):
        return ()
    cuts = np.flatnonzero(np.diff(distinct) != 1)
    starts = distinct[np.concatenate([[0], cuts + 1])]
    stops = distinct[np.concatenate([cuts, [len(distinct) - 1]])] + 1
    return tuple((int(start), int(stop)) for start, stop in zip(starts, stops, strict=True))


def steps_in(ranges: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the steps of half-open ranges, one after the other."""
    parts = [np.arange(start, stop, dtype=np.int64) for start, stop in ranges]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def describe_steps(steps_taken: NDArray[np.integer[Any]]) -> str:
    """Return steps in words, shortened: `3..9, 12` or `1, 3, 5, ... (40 in all)`."""
    ranges = step_ranges(steps_taken)
    texts = [str(start) if stop == start + 1 else f"{start}..{stop - 1}" for start, stop in ranges[:3]]
    more = f", ... ({len(np.unique(steps_taken))} in all)" if len(ranges) > len(texts) else ""
    return ", ".join(texts) + more
