"""The bounded memory region: a byte ledger and the chunks it holds. Bytes are reserved before they are fetched.

Not thread-safe: its owner holds a lock.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from foreshard.errors import BudgetError


@dataclass
class Entry:
    """A resident chunk.

    Attributes:
        held: what the holder knows the chunk by.
        nbytes: size charged to the ledger.
        fetch_us: how long the fetch took, in microseconds.
        forecast: whether the forecast alone asked for it.
        needed_until: last touch that a request promised it to.
        uses: touches it has served.
    """

    held: Any
    nbytes: int
    fetch_us: int
    forecast: bool = False
    needed_until: int = -1
    uses: int = field(default=0)


class Lent(NamedTuple):
    """A chunk lent to the assembler for one touch.

    Attributes:
        entry: the chunk.
        hit: whether it was in memory without a fetch for this touch.
        waited_us: microseconds the assembler waited for it.
        bypass: whether it occupies the on-demand slot, not the region.
    """

    entry: Entry
    hit: bool
    waited_us: int
    bypass: bool


class Holder(Protocol):
    """Where the bytes of chunks lie: an `Arena`. A handle is good until the chunk is freed, whether moved or not."""

    def fits(self, nbytes: int) -> bool:
        """Return whether there is one gap for so many bytes."""
        ...

    def put(self, payload: Any) -> Any:  # noqa: ANN401 - what a fetch returns; and a handle
        """Keep a chunk that fits and return its handle."""
        ...

    def put_aside(self, payload: Any) -> Any:  # noqa: ANN401
        """Keep a chunk beside the others, in place of the last one, and return its handle."""
        ...

    def open(self, nbytes: int) -> Any:  # noqa: ANN401
        """Return a place that a chunk can be read to, which has `room` for its bytes; None if none fits."""
        ...

    def seal(self, place: Any, payload: Any) -> Any:  # noqa: ANN401
        """Keep the chunk that was read to a place and return its handle; None if the place is no longer there."""
        ...

    def discard(self, place: Any) -> None:  # noqa: ANN401
        """Give a place up."""
        ...

    def settle(self) -> Any:  # noqa: ANN401
        """Move the chunk that lies aside among the others and return its new handle."""
        ...

    def free(self, held: Any) -> None:  # noqa: ANN401
        """Let a chunk go."""
        ...

    def compact(self) -> None:
        """Make one gap of all."""
        ...

    def clear(self) -> None:
        """Give the memory back."""
        ...


class Region:
    """Chunks in memory, never more than `budget` bytes together with what is reserved for fetches under way.

    Args:
        budget: bytes.
        largest: size of the largest chunk; one such slot is set aside for on-demand reads, so that they never wait.

    Raises:
        BudgetError: the budget cannot hold that slot and one prefetched chunk beside it.
    """

    def __init__(self, budget: int, largest: int) -> None:
        if budget < 2 * largest:
            raise BudgetError(
                f"memory budget of {budget} bytes is below the {2 * largest} bytes needed: one slot for on-demand "
                f"reads and one prefetched chunk; the layout's largest chunk has {largest} bytes; raise the budget or "
                "lower reshard.max_chunk_rows"
            )
        self.budget = budget
        self.bypass = largest
        self.used = largest
        self.peak = largest
        self.entries: dict[int, Entry] = {}

    @property
    def capacity(self) -> int:
        """Bytes for chunks beside the on-demand slot."""
        return self.budget - self.bypass

    def reserve(self, nbytes: int) -> bool:
        """Set bytes aside for a fetch if they fit."""
        if self.used + nbytes > self.budget:
            return False
        self.used += nbytes
        self.peak = max(self.peak, self.used)
        return True

    def release(self, nbytes: int) -> None:
        """Give reserved bytes back."""
        self.used -= nbytes

    def put(self, chunk: int, entry: Entry) -> None:
        """Hold a chunk whose bytes are reserved already."""
        self.entries[chunk] = entry

    def drop(self, chunk: int) -> Entry:
        """Let a chunk go and give its bytes back."""
        entry = self.entries.pop(chunk)
        self.used -= entry.nbytes
        return entry
