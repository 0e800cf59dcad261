"""Lease objects: what they say, when they are live, and how an expired one is taken from its owner.

Machines' clocks disagree. A lease is live while the store's own record of its last write is younger than its time to
live by the store's own clock; or while its owner's expiry lies ahead by the clock of whoever asks, which only ever
prolongs it. An expired lease is revoked by compare-and-swap: either its owner's late renewal comes first and the lease
lives on, or the revocation does and the owner's next renewal fails. Neither side can believe otherwise.
"""

import os
import secrets
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Literal

from foreshard.errors import ConfigError, CorruptDataError
from foreshard.keys import DatasetKeys, LayoutRef
from foreshard.shards.refetch import refetch
from foreshard.shards.sealed import seal, unseal
from foreshard.shards.swapping import swap_unique
from foreshard.storage import ObjectStore

Kind = Literal["reader", "writer", "gc"]
KINDS: Final[tuple[Kind, ...]] = ("reader", "writer", "gc")

CLOCK_SLACK: Final = timedelta(seconds=2)
"""S3 servers tell times in whole seconds, so a difference of two may be off by nearly one either way."""

_MIN_TTL: Final = 1.0
_READS: Final = 16


@dataclass(frozen=True)
class Owner:
    """Who holds a lease or collects garbage."""

    host: str
    pid: int
    run: str | None = None

    @classmethod
    def here(cls, run: str | None = None) -> "Owner":
        """Return this process."""
        return cls(socket.gethostname(), os.getpid(), run)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f" (run {self.run})" if self.run else "")


@dataclass(frozen=True)
class Lease:
    """What a lease object says.

    Attributes:
        kind: what its owner does.
        lease_id: random; names the object.
        owner: who holds it.
        layout: the layout that a reader reads.
        generation: the generation that a writer makes.
        ttl: seconds that it lives after its last renewal.
        expires_at: when that is by its owner's clock, ISO 8601 in UTC.
        heartbeat: counts renewals.
        token: random, so that no two writes of leases are equal (S3 entity tags are digests of the content).
        revoked: whether gc found it expired and took it away; final.
    """

    kind: Kind
    lease_id: str
    owner: Owner
    layout: LayoutRef | None
    generation: str | None
    ttl: float
    expires_at: str
    heartbeat: int
    token: str
    revoked: bool = False

    @property
    def what(self) -> str:
        """What it is on, in words."""
        on = self.layout or self.generation
        return f"{self.kind} lease of {self.owner}" + (f" on {on}" if on else "")

    def to_json(self) -> bytes:
        """Return the content of its object."""
        return seal(asdict(self))

    def renewed(self) -> "Lease":
        """Return the lease with one more heartbeat, expiring a time to live from now."""
        return replace(self, heartbeat=self.heartbeat + 1, expires_at=_expiry(self.ttl))

    def live(self, modified: datetime, now: datetime) -> bool:
        """Whether it holds.

        Args:
            modified: when its object was last written, by the store's clock.
            now: the time by the store's clock.
        """
        if self.revoked:
            return False
        ttl = timedelta(seconds=self.ttl)
        if now - modified < ttl + CLOCK_SLACK:
            return True
        # An expiry further ahead than a renewal can put it comes from a wrong clock, and tells nothing.
        return timedelta(0) < datetime.fromisoformat(self.expires_at) - datetime.now(UTC) <= ttl


@dataclass(frozen=True)
class FoundLease:
    """A lease in the store: what it says, where, and when it was last written by the store's clock."""

    lease: Lease
    key: str
    modified: datetime


def new_lease(
    kind: Kind, ttl: float, *, layout: LayoutRef | None = None, generation: str | None = None, run: str | None = None
) -> Lease:
    """Return a lease of this process that is not in the store yet.

    Raises:
        ConfigError: the time to live is below a second, which is how finely stores tell the time.
    """
    if not _MIN_TTL <= ttl < float("inf"):
        raise ConfigError(f"a lease's ttl {ttl} must be at least {_MIN_TTL} s; take minutes, as 600")
    ids = secrets.token_hex(16), secrets.token_hex(16)
    return Lease(kind, ids[0], Owner.here(run), layout, generation, ttl, _expiry(ttl), 0, ids[1])


def read_lease(raw: bytes, key: str) -> Lease:
    """Return what a lease object says.

    Raises:
        CorruptDataError: it is damaged, so that nobody can tell what it holds.
    """
    try:
        body: dict[str, Any] = unseal(raw, key)
        typed: dict[str, Any] = {
            "owner": Owner(**body["owner"]),
            "layout": body["layout"] and LayoutRef(**body["layout"]),
        }
        return Lease(**{**body, **typed})
    except (CorruptDataError, KeyError, TypeError) as error:
        raise CorruptDataError(
            f"{key!r} is no lease ({error}), so what it holds is unknown; delete it once no job reads or writes"
        ) from error


def find_leases(store: ObjectStore, keys: DatasetKeys, kinds: Sequence[Kind] = KINDS) -> list[FoundLease]:
    """Return the leases in the store, live or not, by key.

    Raises:
        CorruptDataError: one of them is damaged.
    """
    wanted = tuple(f"{keys.leases}{kind}-" for kind in kinds)
    metas = [meta for meta in store.list(keys.leases) if meta.key.startswith(wanted)]
    if not metas:
        return []
    with ThreadPoolExecutor(min(_READS, len(metas)), "foreshard-leases") as pool:
        read = list(pool.map(partial(_read, store), [meta.key for meta in metas]))
    return [FoundLease(found[0], m.key, m.modified) for m, found in zip(metas, read, strict=True) if found is not None]


def still_live(store: ObjectStore, found: FoundLease, now: datetime, *, revoke: bool) -> bool:
    """Whether a lease holds; one that seems expired is looked at again, as it may have been renewed meanwhile.

    Args:
        store: where it is.
        found: the lease as it was listed.
        now: the time by the store's clock.
        revoke: take an expired lease from its owner for good.
    """
    lease, modified = found.lease, found.modified
    while not lease.revoked and not lease.live(modified, now):
        if not revoke:
            return False
        # Content before time: the time is then of this content or of a newer one, which the swap notices.
        again, meta = _read(store, found.key), store.head(found.key)
        if again is None or meta is None:
            return False
        lease, modified = again[0], meta.modified
        if lease.revoked or lease.live(modified, now):
            continue
        if swap_unique(store, found.key, replace(lease, revoked=True).to_json(), again[1]) is not None:
            return False
    return not lease.revoked


def _read(store: ObjectStore, key: str) -> tuple[Lease, str] | None:
    def read() -> tuple[Lease, str] | None:
        tagged = store.get_tagged(key)
        return None if tagged is None else (read_lease(tagged[0], key), tagged[1])

    return refetch(store, read)


def _expiry(ttl: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=ttl)).isoformat(timespec="milliseconds")
