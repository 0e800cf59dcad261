"""`gc.json`: whether garbage is being collected now, and which layouts may go.

Readers and writers create their lease first and look here second; a sweep is announced here first and looks for leases
second. Stores are strongly consistent, so at least one of the two sees the other.
"""

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from foreshard.errors import ConfigError, ConflictError, CorruptDataError
from foreshard.keys import DatasetKeys, LayoutRef
from foreshard.shards.lease_record import CLOCK_SLACK, Owner
from foreshard.shards.refetch import refetch
from foreshard.shards.sealed import seal, unseal
from foreshard.shards.swapping import elapsed, swap_unique
from foreshard.storage import ObjectStore

_RETRIES: Final = 3


@dataclass(frozen=True)
class GcState:
    """What `gc.json` says.

    Attributes:
        phase: `idle`, or `sweeping` while objects are being deleted.
        fence: counts sweeps; only grows.
        token: random, one for each sweep.
        beat: counts writes of one sweep, so that no two are equal.
        owner: who collects.
        seconds: how long after it was written, by the store's clock, a sweep may go on.
        decided: whether `doomed` is final; until then it holds every layout that may be doomed.
        doomed: layouts that must not be opened while the sweep is live.
    """

    phase: Literal["idle", "sweeping"]
    fence: int
    token: str
    beat: int
    owner: Owner
    seconds: float
    decided: bool = False
    doomed: frozenset[LayoutRef] = field(default_factory=frozenset[LayoutRef])

    def to_json(self) -> bytes:
        """Return the content of the object."""
        doomed = sorted([ref.generation, ref.plan_digest] for ref in self.doomed)
        return seal({**asdict(replace(self, doomed=frozenset())), "doomed": doomed})

    @classmethod
    def from_json(cls, raw: bytes, key: str) -> "GcState":
        """Rebuild from `to_json`'s output.

        Raises:
            CorruptDataError: the object is damaged.
        """
        try:
            body: dict[str, Any] = unseal(raw, key)
            typed: dict[str, Any] = {
                "owner": Owner(**body["owner"]),
                "doomed": frozenset(LayoutRef(*ref) for ref in body["doomed"]),
            }
            return cls(**{**body, **typed})
        except (CorruptDataError, KeyError, TypeError) as error:
            raise CorruptDataError(
                f"{key!r} does not say whether garbage is being collected ({error}); delete it once no gc runs"
            ) from error


@dataclass(frozen=True)
class SweepTimes:
    """How a sweep keeps its promises to end; the defaults fit every store.

    Attributes:
        seconds: a sweep that is not renewed for so long may be taken over. It renews itself in time while it works.
        margin: seconds before its end at which it stops deleting; more than any request takes, repetitions included
            (330 s on S3), so that no delete is under way when others go on.
        batch: objects deleted between two looks at the time.
        look: seconds between looks for writers that wait for the sweep to end.
    """

    seconds: float = 900.0
    margin: float = 400.0
    batch: int = 1000
    look: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < 2 * self.margin < self.seconds:
            raise ConfigError(f"a sweep of {self.seconds} s cannot end {self.margin} s early; take 900 and 400")
        if self.batch < 1:
            raise ConfigError(f"batch {self.batch} must be at least 1 object")


def read_state(store: ObjectStore, keys: DatasetKeys) -> tuple[GcState, str] | None:
    """Return the state and its entity tag, or None if garbage was never collected.

    Raises:
        CorruptDataError: the object is damaged.
    """

    def read() -> tuple[GcState, str] | None:
        tagged = store.get_tagged(keys.gc)
        return None if tagged is None else (GcState.from_json(tagged[0], keys.gc), tagged[1])

    return refetch(store, read)


def live_sweep(store: ObjectStore, keys: DatasetKeys, clock_key: str) -> GcState | None:
    """Return the sweep that is under way, or None if there is none, or only one whose time is over.

    Args:
        store: where it is.
        keys: names of the dataset's objects.
        clock_key: an object that the caller has just written: when that was, by the store's clock, counts as now.
    """
    found = read_state(store, keys)
    return found[0] if found and _live(store, keys, found[0], clock_key) else None


def _live(store: ObjectStore, keys: DatasetKeys, state: GcState, clock_key: str) -> bool:
    if state.phase == "idle":
        return False
    # Read after the state, so that it is this state's time or a newer one's: a sweep never seems to end too early.
    meta, clock = store.head(keys.gc), store.head(clock_key)
    if meta is None or clock is None:  # no one deletes `gc.json`; a clock that is gone gives no time to compare with
        return True
    return clock.modified < meta.modified + timedelta(seconds=state.seconds) + CLOCK_SLACK


class Sweep:
    """A sweep that this process has announced.

    Args:
        store: where.
        keys: names of the dataset's objects.
        clock_key: see `live_sweep`.
        doomed: every layout that may go.
        times: how it keeps its promises.

    Raises:
        ConflictError: somebody else is sweeping.
    """

    def __init__(
        self, store: ObjectStore, keys: DatasetKeys, clock_key: str, doomed: Sequence[LayoutRef], times: SweepTimes
    ) -> None:
        self._store, self._keys = store, keys
        self._usable = times.seconds - times.margin
        found = read_state(store, keys)
        if found is not None and _live(store, keys, found[0], clock_key):
            raise ConflictError(
                f"gc of dataset {keys.dataset!r} is running already ({found[0].owner}); wait for it, at most "
                f"{found[0].seconds:.0f} s if it was killed"
            )
        fence = found[0].fence + 1 if found else 1
        self.state = GcState(
            "sweeping", fence, secrets.token_hex(16), 0, Owner.here(), times.seconds, doomed=frozenset(doomed)
        )
        self._written = elapsed()
        tag = swap_unique(store, keys.gc, self.state.to_json(), found[1] if found else None)
        if tag is None:
            raise ConflictError(f"another gc of dataset {keys.dataset!r} has just begun; wait for it, then try again")
        self._tag = tag

    def now(self) -> datetime:
        """Return when the sweep was announced or last renewed, by the store's clock."""
        meta = self._store.head(self._keys.gc)
        if meta is None:
            raise ConflictError(f"{self._keys.gc!r} was deleted during a sweep; nothing more is deleted")
        return meta.modified

    def decide(self, doomed: Sequence[LayoutRef]) -> None:
        """Make the list of doomed layouts final."""
        self._write(replace(self.state, decided=True, doomed=frozenset(doomed)))

    def renew(self) -> None:
        """Call between batches of deletes: prolongs the sweep where half of its time has passed.

        Raises:
            ConflictError: it took too long, or was taken over; nothing may be deleted any more.
        """
        if elapsed() - self._written > self._usable / 2:
            self._write(self.state)

    def check(self) -> None:
        """Call right before every delete; asks the clock alone.

        Raises:
            ConflictError: the sweep may be over before the delete is.
        """
        if elapsed() - self._written > self._usable:
            raise ConflictError(
                f"the sweep of dataset {self._keys.dataset!r} was not renewed for {self._usable:.0f} s (the store "
                "was slow, or the process stood still); nothing more is deleted, run gc again"
            )

    def end(self) -> None:
        """Say that nothing is being deleted any more."""
        self._write(replace(self.state, phase="idle", decided=False, doomed=frozenset()))

    def _write(self, state: GcState) -> None:
        for _ in range(_RETRIES):
            self.check()  # a late renewal must not revive a sweep that others hold for over
            self.state, began = replace(state, beat=self.state.beat + 1), elapsed()
            tag = swap_unique(self._store, self._keys.gc, self.state.to_json(), self._tag)
            if tag is not None:
                self._tag, self._written = tag, began
                return
            found = read_state(self._store, self._keys)
            if found is None or found[0].token != state.token:
                break
            self._tag = found[1]  # of an earlier write of ours, whose answer was lost
        raise ConflictError(
            f"another gc has taken over the sweep of dataset {self._keys.dataset!r}; nothing more is deleted here"
        )
