"""The pointer to the current layout: swapped only if nobody else did, with a fence that only grows."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from foreshard.errors import ConflictError, CorruptDataError
from foreshard.keys import DatasetKeys, parse_generation_key
from foreshard.shards.manifest import LayoutRef
from foreshard.shards.sealed import seal, unseal
from foreshard.storage import ObjectStore

ATTEMPTS: Final = 100
"""Lost races after which a publisher gives up; every lost race means that another publisher won one."""


@dataclass(frozen=True)
class Current:
    """What `current.json` says.

    Attributes:
        ref: the layout that new readers open.
        fence: counts publishes; only grows.
        token: random, so that two publishers proposing the same layout and fence write different bytes (S3 entity
            tags are digests of the content, `research/s3.md`).
        boundaries: the newest boundary epoch ever published, by run.
    """

    ref: LayoutRef
    fence: int
    token: str
    boundaries: Mapping[str, int] = field(default_factory=dict[str, int])


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
    """Return the pointer and its entity tag, or None before the first publish.

    Raises:
        CorruptDataError: the object is damaged.
    """
    tagged = store.get_tagged(keys.current)
    if tagged is None:
        return None
    body = unseal(tagged[0], keys.current)
    try:
        ref = LayoutRef(body["generation"], body["plan_digest"])
        return Current(ref, body["fence"], body["token"], body["boundaries"]), tagged[1]
    except KeyError as error:
        raise CorruptDataError(f"{keys.current!r} lacks {error}; delete it and publish a layout again") from error


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
        fence = found[0].fence + 1 if found else 1
        proposed = Current(ref, fence, secrets.token_hex(16), {**boundaries, run: epoch})
        if _swap(store, keys, proposed, found[1] if found else None):
            before = f"replaces {found[0].ref}" if found else "is the first layout"
            return Published(proposed, changed=True, reason=f"{ref} {before}")
    raise ConflictError(
        f"{keys.current!r} in {store.url} was replaced by others {ATTEMPTS} times while publishing {ref}; find out who "
        "publishes in a loop, then publish again"
    )


def _swap(store: ObjectStore, keys: DatasetKeys, proposed: Current, expected: str | None) -> bool:
    body = {
        "generation": proposed.ref.generation,
        "plan_digest": proposed.ref.plan_digest,
        "fence": proposed.fence,
        "token": proposed.token,
        "boundaries": dict(proposed.boundaries),
    }
    try:
        store.swap(keys.current, seal(body), expected)
    except ConflictError:
        # A retried request may meet its own first write; only that write has our token.
        found = read_pointer(store, keys)
        return found is not None and found[0].token == proposed.token
    return True
