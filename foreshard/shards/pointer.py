"""The pointer to the current layout: swapped only if nobody else did, with a fence that only grows and a history."""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from foreshard.errors import ConflictError, CorruptDataError, ObjectNotFoundError
from foreshard.keys import DatasetKeys, LayoutRef, parse_generation_key
from foreshard.shards.refetch import refetch
from foreshard.shards.sealed import seal, unseal
from foreshard.storage import ObjectStore

ATTEMPTS: Final = 100
"""Lost races after which a publisher gives up; every lost race means that another publisher won one."""


@dataclass(frozen=True)
class Current:
    """What `current.json` says, and each record of a publication.

    Attributes:
        ref: the layout that new readers open.
        fence: counts publications; only grows.
        token: random, so that two publishers proposing the same layout and fence write different bytes (S3 entity
            tags are digests of the content, `research/s3.md`).
        boundaries: the newest boundary epoch ever published, by run.
        at: when it was proposed, by the publisher's clock, ISO 8601 in UTC.
        previous: key of the record of the publication before; None for the first.
    """

    ref: LayoutRef
    fence: int
    token: str
    boundaries: Mapping[str, int] = field(default_factory=dict[str, int])
    at: str = ""
    previous: str | None = None


@dataclass(frozen=True)
class Published:
    """Outcome of a publish.

    Attributes:
        current: what the pointer says now.
        changed: whether this call moved it.
        reason: why, in words.
    """

    current: Current
    changed: bool
    reason: str


def read_pointer(store: ObjectStore, keys: DatasetKeys) -> tuple[Current, str] | None:
    """Return the pointer and its entity tag, or None before the first publication.

    Raises:
        CorruptDataError: the object is damaged.
    """

    def read() -> tuple[Current, str] | None:
        tagged = store.get_tagged(keys.current)
        return None if tagged is None else (_decode(tagged[0], keys.current), tagged[1])

    return refetch(store, read)


def publications(store: ObjectStore, keys: DatasetKeys) -> Iterator[Current]:
    """Yield the publications of a dataset, the current one first.

    Each record names the one before it, so proposals that lost their race are not among them.

    Raises:
        CorruptDataError: a record is damaged or missing.
    """
    found = read_pointer(store, keys)
    current = found[0] if found else None
    while current is not None:
        yield current
        current = _record(store, current.previous) if current.previous else None


def move_pointer(store: ObjectStore, keys: DatasetKeys, ref: LayoutRef) -> Published:
    """Make `ref` current by compare-and-swap, unless its run has published a newer boundary already.

    A lost race is retried from a fresh read. A swap whose response was lost is recognised by its token.

    Raises:
        ConflictError: `ATTEMPTS` races were lost one after another.
        CorruptDataError: the pointer is damaged.
    """
    run, epoch = parse_generation_key(ref.generation)
    for _ in range(ATTEMPTS):
        found = read_pointer(store, keys)
        boundaries = dict(found[0].boundaries) if found else {}
        if found and found[0].ref == ref:
            return Published(found[0], changed=False, reason=f"{ref} is current already")
        if found and boundaries.get(run, -1) > epoch:
            reason = f"run {run!r} has published epoch {boundaries[run]} already, newer than {ref.generation}"
            return Published(found[0], changed=False, reason=reason)
        proposed = Current(
            ref,
            found[0].fence + 1 if found else 1,
            secrets.token_hex(16),
            {**boundaries, run: epoch},
            datetime.now(UTC).isoformat(timespec="milliseconds"),
            keys.publication(found[0].fence, found[0].token) if found else None,
        )
        if _swap(store, keys, proposed, found[1] if found else None):
            before = f"replaces {found[0].ref}" if found else "is the first layout"
            return Published(proposed, changed=True, reason=f"{ref} {before}")
    raise ConflictError(
        f"{keys.current!r} in {store.url} was replaced by others {ATTEMPTS} times while publishing {ref}; find out who "
        "publishes in a loop, then publish again"
    )


def _swap(store: ObjectStore, keys: DatasetKeys, proposed: Current, expected: str | None) -> bool:
    record, raw = keys.publication(proposed.fence, proposed.token), _encode(proposed)
    # Before the pointer, so that whatever the pointer ever said can be looked up.
    store.create(record, raw)
    try:
        store.swap(keys.current, raw, expected)
    except ConflictError:
        if _won(store, keys, proposed):
            return True
        store.delete([record])
        return False
    return True


def _won(store: ObjectStore, keys: DatasetKeys, proposed: Current) -> bool:
    """Whether a swap that reported a conflict took place: a retried request may meet its own first write.

    Only that write has our token; others may have followed it since.
    """
    for publication in publications(store, keys):
        if publication.fence <= proposed.fence:
            return publication.token == proposed.token
    return False


def _record(store: ObjectStore, key: str) -> Current:
    def read() -> Current:
        try:
            return _decode(store.get(key), key)
        except ObjectNotFoundError as error:
            raise CorruptDataError(f"{key!r} is missing in {store.url}: the history before it is lost") from error

    return refetch(store, read)


def _encode(current: Current) -> bytes:
    body: dict[str, Any] = {
        "generation": current.ref.generation,
        "plan_digest": current.ref.plan_digest,
        "fence": current.fence,
        "token": current.token,
        "boundaries": dict(current.boundaries),
        "at": current.at,
        "previous": current.previous,
    }
    return seal(body)


def _decode(raw: bytes, key: str) -> Current:
    body = unseal(raw, key)
    try:
        ref = LayoutRef(body["generation"], body["plan_digest"])
        return Current(ref, body["fence"], body["token"], body["boundaries"], body["at"], body["previous"])
    except KeyError as error:
        raise CorruptDataError(f"{key!r} lacks {error}; delete it and publish a layout again") from error
