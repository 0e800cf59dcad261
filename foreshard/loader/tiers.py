"""Reading through the node's cache: what lies on this machine's disk or is on its way there is not fetched again."""

import time
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import BudgetError, CorruptDataError
from foreshard.loader.options import LoaderOptions
from foreshard.loader.reading import chunk_locator
from foreshard.prefetch.arena import Payload
from foreshard.prefetch.gather import Gatherer
from foreshard.prefetch.landing import Fetch
from foreshard.prefetch.node.cache import Claim, NodeCache
from foreshard.prefetch.node.folder import Folder
from foreshard.prefetch.node.keys import chunk_keys
from foreshard.prefetch.node.shelf import PartShelf
from foreshard.prefetch.node.stats import NodeStats
from foreshard.prefetch.node.table import EMPTY
from foreshard.prefetch.traffic import Traffic
from foreshard.shards.manifest import Manifest

_PATIENCE: Final = 4


def open_disk(options: LoaderOptions, nbytes: NDArray[np.int64]) -> NodeCache | None:
    """Open the disk tier of a loader.

    Args:
        options: the loader's.
        nbytes: size of every chunk that it reads, shape (c,).

    Returns:
        None if the loader has none.

    Raises:
        BudgetError: the largest chunk does not fit it.
        ConfigError: its folder cannot be used.
    """
    tier = options.disk
    if tier is None:
        return None
    largest = int(nbytes.max(initial=0))
    if tier.nbytes < largest:
        raise BudgetError(
            f"the disk tier in {tier.folder!r} has {tier.nbytes} bytes, the largest chunk has {largest}; give it at "
            f"least {largest}, better {int(nbytes.sum())} for all chunks"
        )
    typical = int(np.median(nbytes)) if len(nbytes) else largest
    # Others' fetches are waited for within the wait that a batch may take; several times, if need be.
    return NodeCache(
        tier.folder,
        tier.nbytes,
        timeout=options.timeout / _PATIENCE,
        typical_bytes=max(typical, 1),
        population=len(nbytes),
    )


def open_shelf(options: LoaderOptions) -> PartShelf | None:
    """Open the part of the disk tier that keeps what layouts consist of beside their chunks.

    Args:
        options: the loader's.

    Returns:
        None if the loader has no disk tier.

    Raises:
        ConfigError: its folder cannot be used.
    """
    return None if options.disk is None else PartShelf(Folder(options.disk.folder), options.timeout)


def disk_traffic(before: NodeStats, now: NodeStats) -> Traffic:
    """Return what a cache did between two looks at its counters.

    Args:
        before: the first.
        now: the second.
    """
    return Traffic(
        disk_hits=now.disk_hits - before.disk_hits,
        disk_bytes=now.disk_hit_bytes - before.disk_hit_bytes,
        disk_written=now.published - before.published,
        disk_awaited=now.awaited - before.awaited,
        disk_evicted=now.evicted - before.evicted,
        disk_damaged=now.damaged - before.damaged,
        disk_troubles=_troubles(now) - _troubles(before),
    )


def _troubles(stats: NodeStats) -> int:
    return stats.write_failures + stats.troubles + stats.overdue


def node_fetcher(fetch: Fetch, manifest: Manifest, cache: NodeCache, gatherer: Gatherer) -> Fetch:
    """Return a function that reads as `fetch` does, but from the node's cache what is there.

    Chunks that are neither there nor on their way are fetched, those that follow each other in one request, and
    written for others before any wait: nobody waits for a chunk while somebody waits for his.

    Args:
        fetch: reads and verifies chunks from the store.
        manifest: the layout.
        cache: the node's cache.
        gatherer: knows the columns wanted.
    """
    return _NodeTier(fetch, manifest, cache, gatherer)


class _NodeTier:
    """See `node_fetcher`."""

    def __init__(self, fetch: Fetch, manifest: Manifest, cache: NodeCache, gatherer: Gatherer) -> None:
        self._fetch, self._manifest, self._cache = fetch, manifest, cache
        self._locate = chunk_locator(manifest, gatherer)

    def __call__(self, chunks: Sequence[int]) -> list[Payload]:
        cache, keys = self._cache, chunk_keys(self._manifest, chunks)
        found: dict[int, Payload] = {}  # by position in `chunks`
        waited: set[int] = set()
        until = time.monotonic() + cache.timeout
        while len(found) < len(chunks):
            pending = [i for i in range(len(chunks)) if i not in found]
            claims = dict(zip(pending, cache.claim([keys[i] for i in pending]), strict=True))
            late = {i for i in pending if claims[i].elsewhere} if time.monotonic() >= until else set[int]()
            cache.count(overdue=len(late))
            mine = [i for i in pending if i in late or not (claims[i].present or claims[i].elsewhere)]
            self._obtain(chunks, mine, claims, found)
            for i in pending:
                if claims[i].present and (payload := self._read(chunks[i], claims[i])):
                    found[i] = payload
            others = [i for i in pending if claims[i].elsewhere and i not in found]
            if others and len(others) + len(found) == len(chunks):
                cache.count(awaited=len(set(others) - waited))
                waited.update(others)
                cache.wait([claims[i] for i in others], until)
        return [found[i] for i in range(len(chunks))]

    def _read(self, chunk: int, claim: Claim) -> Payload | None:
        """Return a chunk from the cache; None, and it is removed there, if what is there is not right."""
        raw = self._cache.read(claim)
        if raw is None:
            return None
        try:
            payload = self._locate(chunk, raw)
        except CorruptDataError:
            self._cache.damaged(claim)
            return None
        self._cache.count(disk_hits=1, disk_hit_bytes=len(raw))
        return payload

    def _obtain(
        self, chunks: Sequence[int], positions: list[int], claims: dict[int, Claim], found: dict[int, Payload]
    ) -> None:
        """Fetch chunks from the store, and publish those that were to be fetched for all; or give up all claims."""
        held = {i: claims[i] for i in positions if claims[i].mine}
        self._cache.count(bypassed=sum(claims[i].state == EMPTY for i in positions))
        try:
            for run in _runs(positions):
                payloads = self._fetch([chunks[i] for i in run])
                for i, payload in zip(run, payloads, strict=True):
                    found[i] = payload
                    if i in held:
                        self._cache.publish(held.pop(i), payload.raw)
        finally:
            self._cache.abandon(list(held.values()))


def _runs(positions: list[int]) -> Iterable[list[int]]:
    """Yield the parts of an ascending list that have no gaps."""
    begin = 0
    for end in range(1, len(positions) + 1):
        if end == len(positions) or positions[end] != positions[end - 1] + 1:
            yield positions[begin:end]
            begin = end
