"""What the advised policy would pin next: the objects themselves, for each window of the next epoch."""

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from foreshard.forecast.judging import capacity_of
from foreshard.simulate.caches import KEEP
from foreshard.simulate.pinned import best_that_fit
from foreshard.simulate.shadow import pinned_bytes, rank_by_worth

if TYPE_CHECKING:
    from foreshard.forecast.study import Study

PINS_SCHEMA: Final = pa.schema(
    [
        ("phase", pa.int16()),
        ("order", pa.int32()),
        ("object", pa.string()),
        ("expected", pa.float64()),
        ("nbytes", pa.int64()),
    ]
)
"""One row per (phase of the next epoch, object pinned in it), most requests per byte first; a single phase where there
are no epochs. `nbytes` is 1 where the log tells no sizes."""


def pins(study: "Study") -> bool:
    """Return whether the advised policy pins anything by forecast."""
    return study.choice.pin_fraction > 0 and study.choice.name != KEEP


def pins_table(study: "Study") -> pa.Table:
    """Return what the advised policy pins, rows of `PINS_SCHEMA`, chosen as in the replay that it was advised by.

    That is not the ranking cut at the cache's size: a ranking is by requests of an epoch, while what memory should hold
    is what is wanted most per byte and in the phase in question.
    """
    trace = study.imported.trace
    parts = [PINS_SCHEMA.empty_table()]
    room = pinned_bytes(study.choice.pin_fraction, capacity_of(trace, study.cache_fraction)) if pins(study) else 0
    for phase, expected in enumerate(study.result.by_phase if room else ()):
        chosen = best_that_fit(rank_by_worth(expected, trace.nbytes), trace.nbytes, room)
        columns: dict[str, Any] = {
            "phase": np.full(len(chosen), phase, np.int16),
            "order": np.arange(len(chosen), dtype=np.int32),
            "object": pa.array([str(name) for name in trace.names[chosen].tolist()], pa.string()),
            "expected": expected[chosen],
            "nbytes": trace.nbytes[chosen],
        }
        parts.append(pa.table([columns[field.name] for field in PINS_SCHEMA], schema=PINS_SCHEMA))
    return pa.concat_tables(parts).combine_chunks()
