"""One sentence on what limits a training loop: its own steps, planning, or what it waits for."""

from typing import Final

from foreshard.prefetch.monitor import MonitorSnapshot
from foreshard.prefetch.rolling import CAUSES

WORTH: Final = 0.05
"""Share of a loop's time below which a wait is not worth a change."""
_MEGA: Final = 1e6
_OWN: Final = "own"
_PLANNING: Final = "planning"

_NAMES: Final = {
    _OWN: "the training loop's own steps",
    _PLANNING: "planning before the first batch",
    "fetch": "waiting for chunks on their way",
    "decode": "waiting for rows to be gathered, decoded or transformed",
    "throttle": "waiting as the store had asked for fewer requests",
    "queue": "waiting for the threads that make batches to get a turn",
}
_ADVICE: Final = {
    _PLANNING: "Longer epochs or larger chunks make its share smaller",
    "fetch": "More memory, more fetches in flight (max_concurrency) or an order by blocks may help",
    "decode": "Fewer columns, an order by blocks, more transform_threads or loader workers may help",
    "throttle": "Larger chunks or fewer readers may help",
    "queue": "Leave a core to them, and let go of the interpreter's lock in the training loop",
}


def limit_of(snapshot: MonitorSnapshot) -> str:
    """Return what limits the loop, by its last batches while an epoch runs and by the last epoch otherwise.

    Args:
        snapshot: from `Monitor.snapshot`.
    """
    last = snapshot.rolling
    if snapshot.running is not None and last.span_s:
        waits = last.waits
        parts = {_OWN: 1 - last.wait_share}
        waited, share, rate = last.wait_s, last.wait_share, last.bytes_per_s
    elif snapshot.epochs and snapshot.epochs[-1].total_s:
        stats = snapshot.epochs[-1]
        waits, total = stats.waits, stats.total_s
        parts = {_OWN: stats.loop_s / total, _PLANNING: stats.plan_s / total}
        waited, share, rate = stats.wait_s, stats.wait_s / total, stats.origin_bytes / total
    else:
        return "Limit: not known yet"
    for cause in CAUSES:
        parts[cause] = waits[cause] / waited * share if waited else 0.0
    return _told(parts, rate)


def _told(parts: dict[str, float], bytes_per_s: float) -> str:
    """Put shares of the loop's time into words; the greatest that is not its own steps is what can be changed."""
    first, second = sorted(parts, key=lambda name: -parts[name])[:2]
    told = f"Limit: {_NAMES[first]} ({parts[first]:.1%} of the time)"
    if first == _OWN and parts[second] < WORTH:
        return f"{told}; data are no bottleneck"
    if parts[second] >= WORTH:
        told += f", then {_NAMES[second]} ({parts[second]:.1%})"
    change = second if first == _OWN else first
    rate = f" ({bytes_per_s / _MEGA:,.1f} MB/s came)" if change == "fetch" else ""
    return f"{told}. {_ADVICE[change]}{rate}; `foreshard doctor` tells more"
