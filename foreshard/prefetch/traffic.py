"""Counting what a prefetcher moved, and what of it was of use."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from foreshard.prefetch.region import Entry


@dataclass
class Traffic:
    """What was moved since the counters were last taken; the fields of `EpochStats` of the same names."""

    origin_bytes: int = 0
    origin_requests: int = 0
    demand_requests: int = 0
    failed_requests: int = 0
    prefetched_bytes: int = 0
    prefetched_used_bytes: int = 0
    forecast_bytes: int = 0
    forecast_used_bytes: int = 0
    peak_bytes: int = 0
    disk_hits: int = 0
    disk_bytes: int = 0
    disk_written: int = 0
    disk_awaited: int = 0
    disk_evicted: int = 0
    disk_damaged: int = 0
    disk_troubles: int = 0

    def fetched(self, entry: Entry, *, ahead: bool) -> None:
        """Count the bytes of a fetch that ended well: ahead of its use, or on demand; requests are counted apart."""
        self.origin_bytes += entry.nbytes
        self.demand_requests += not ahead
        if ahead:
            self.prefetched_bytes += entry.nbytes
            self.forecast_bytes += entry.nbytes if entry.forecast else 0

    def first_use(self, entry: Entry) -> None:
        """Count what was fetched ahead as used."""
        self.prefetched_used_bytes += entry.nbytes
        self.forecast_used_bytes += entry.nbytes if entry.forecast else 0

    def __add__(self, other: "Traffic") -> "Traffic":
        mine, theirs = asdict(self), asdict(other)
        both = {name: mine[name] + theirs[name] for name in mine}
        return Traffic(**both | {"peak_bytes": max(self.peak_bytes, other.peak_bytes)})

    def leave(self, unused: Iterable[Entry]) -> "Traffic":
        """Return the next counters, with what is in memory unused moved there: it may still be of use."""
        following = Traffic()
        for entry in unused:
            following.prefetched_bytes += entry.nbytes
            following.forecast_bytes += entry.nbytes if entry.forecast else 0
        self.prefetched_bytes -= following.prefetched_bytes
        self.forecast_bytes -= following.forecast_bytes
        return following
