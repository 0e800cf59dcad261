"""Garbage collection: delete what neither `current`, a live lease nor the retention policy holds.

A collection announces the layouts that may go (`gc.json`), looks for leases, decides again from what is there then, and
deletes in an order (`gc_objects`) that leaves nothing dangling wherever it is killed; the next one finishes. While a
writer is active nothing is deleted, as what it has put is named by nothing yet.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from foreshard.errors import ConflictError
from foreshard.keys import DatasetKeys
from foreshard.retention import RetentionConfig
from foreshard.shards.gc_layouts import Decision, decide, find_chain, find_layouts
from foreshard.shards.gc_objects import CATEGORIES, GARBAGE_SCHEMA, Scope, check_keys, find_garbage, find_uploads
from foreshard.shards.gc_report import GcReport
from foreshard.shards.gc_state import Sweep, SweepTimes
from foreshard.shards.held_lease import HeldLease
from foreshard.shards.lease_record import FoundLease, find_leases, new_lease, still_live
from foreshard.shards.leases import DEFAULT_TTL
from foreshard.shards.materialize import Progress
from foreshard.shards.swapping import elapsed
from foreshard.storage import ObjectMeta, ObjectStore

DEFAULT_TIMES: Final = SweepTimes()
_DELETES: Final = 16


class _BlockedError(Exception):
    """A writer is active."""


def plan_gc(store: ObjectStore, keys: DatasetKeys, policy: RetentionConfig) -> GcReport:
    """Return what a collection would delete and why the rest stays; changes nothing.

    Ages are by this machine's clock here, as only a write tells the store's.

    Args:
        store: where the objects are.
        keys: their names.
        policy: what to keep.

    Raises:
        CorruptDataError: what is needed cannot be told, as a lease, the pointer or a kept layout is damaged.
    """
    now = datetime.now(UTC)
    held, expired = _sort(store, find_leases(store, keys), now, revoke=False)
    report = _find(Scope(store, keys, policy, now, lambda: None), held, expired, None)
    return replace(report, blocked=_writer(held))


def run_gc(
    store: ObjectStore,
    keys: DatasetKeys,
    policy: RetentionConfig,
    *,
    progress: Progress | None = None,
    times: SweepTimes = DEFAULT_TIMES,
) -> GcReport:
    """Delete what neither `current`, a live lease nor the policy holds.

    May be killed at any moment and run again; a run right after a complete one finds nothing.

    Args:
        store: where the objects are.
        keys: their names.
        policy: what to keep.
        progress: called from this thread with (deleted objects, all objects to delete).
        times: how the sweep keeps its promises.

    Returns:
        What was found and deleted; `blocked` tells that a writer is active.

    Raises:
        ConflictError: another collection is running, or this one stood still for too long.
        CorruptDataError: what is needed cannot be told, as a lease, the pointer or a kept layout is damaged.
        StorageError: the store failed; what is left goes the next time.
    """
    # Its own lease tells the time by the store's clock before anything is announced.
    with HeldLease(store, keys, new_lease("gc", DEFAULT_TTL)) as clock:
        return _Collection(store, keys, policy, clock, progress, times).run()


class _Collection:
    def __init__(
        self,
        store: ObjectStore,
        keys: DatasetKeys,
        policy: RetentionConfig,
        clock: HeldLease,
        progress: Progress | None,
        times: SweepTimes,
    ) -> None:
        self.store, self.keys, self.policy, self.clock = store, keys, policy, clock
        self.progress, self.times = progress, times
        self.deleting, self.deleted, self.looked = False, 0, elapsed()

    def run(self) -> GcReport:
        meta = self.store.head(self.clock.key)
        if meta is None:
            raise ConflictError(f"the lease {self.clock.key!r} of this gc vanished; find out who deletes leases")
        now = meta.modified
        held, _ = _sort(self.store, self._others(), now, revoke=False)
        layouts, chain = find_layouts(self.store, self.keys), find_chain(self.store, self.keys)
        candidates = decide(layouts, chain, held, self.policy, keys=self.keys, now=now)
        blocked = _writer(held)
        if blocked is not None:
            return GcReport(now, candidates.kept, candidates.doomed, GARBAGE_SCHEMA.empty_table(), blocked=blocked)
        # What may go is announced before anyone is asked; what goes is decided after.
        return self._sweep(Sweep(self.store, self.keys, self.clock.key, candidates.doomed, self.times), candidates)

    def _sweep(self, sweep: Sweep, candidates: Decision) -> GcReport:
        report = GcReport(sweep.now(), candidates.kept, candidates.doomed, GARBAGE_SCHEMA.empty_table())
        try:
            held, expired = _sort(self.store, self._others(), report.now, revoke=True)
            blocked = _writer(held)
            if blocked is None:
                scope = Scope(self.store, self.keys, self.policy, report.now, lambda: self._tick(sweep))
                report = _find(scope, held, expired, candidates)
                sweep.decide(report.doomed)
                self._delete(sweep, report)
        except _BlockedError as error:
            blocked = str(error)
        except BaseException:
            # Once a delete has failed its fate is unknown: the sweep is left to run out before others go on.
            if not self.deleting:
                sweep.end()
            raise
        sweep.end()
        return replace(report, executed=True, deleted=self.deleted, blocked=blocked)

    def _delete(self, sweep: Sweep, report: GcReport) -> None:
        def remove(key: str) -> None:
            sweep.check()
            self.store.delete([key])

        self.deleting = True
        codes, keys = report.codes(), report.garbage.column("key")
        # One at a time on this machine, where it is quick and the order of steps is then the same in every run.
        with ThreadPoolExecutor(1 if self.store.local else _DELETES, "foreshard-gc") as pool:
            for code in range(len(CATEGORIES)):  # a category is gone before the next one begins
                start, stop = np.searchsorted(codes, code), np.searchsorted(codes, code, "right")
                for first in range(int(start), int(stop), self.times.batch):
                    self._tick(sweep)
                    batch: list[Any] = keys.slice(first, min(self.times.batch, int(stop) - first)).to_pylist()
                    check_keys(self.keys, batch, report.kept)
                    for _ in pool.map(remove, batch):
                        self.deleted += 1
                    if self.progress:
                        self.progress(self.deleted, len(codes))
        for upload in report.uploads:
            self._tick(sweep)
            sweep.check()
            self.store.abort_uploads([upload])

    def _tick(self, sweep: Sweep) -> None:
        """Keep the sweep alive, unless a writer has come and waits for its end."""
        sweep.renew()
        if elapsed() - self.looked > self.times.look:
            self.looked = elapsed()
            held, _ = _sort(self.store, find_leases(self.store, self.keys, ("writer",)), sweep.now(), revoke=False)
            blocked = _writer(held)
            if blocked is not None:
                raise _BlockedError(blocked)

    def _others(self) -> list[FoundLease]:
        return [found for found in find_leases(self.store, self.keys) if found.key != self.clock.key]


def _find(
    scope: Scope, held: Sequence[FoundLease], expired: Sequence[FoundLease], candidates: Decision | None
) -> GcReport:
    """Look at everything; of the layouts only candidates may go, if they are given."""
    layouts, chain = find_layouts(scope.store, scope.keys), find_chain(scope.store, scope.keys)
    decision = decide(layouts, chain, held, scope.policy, keys=scope.keys, now=scope.now)
    if candidates is not None:
        unannounced = [ref for ref in decision.doomed if ref not in set(candidates.doomed)]
        decision = Decision(
            {**decision.kept, **dict.fromkeys(unannounced, ("held until this gc began",))},
            tuple(ref for ref in decision.doomed if ref not in set(unannounced)),
        )
    metas = [ObjectMeta(found.key, len(found.lease.to_json()), "", found.modified) for found in expired]
    garbage = find_garbage(scope, layouts, decision, chain, metas)
    return GcReport(scope.now, decision.kept, decision.doomed, garbage, find_uploads(scope))


def _sort(
    store: ObjectStore, leases: Sequence[FoundLease], now: datetime, *, revoke: bool
) -> tuple[list[FoundLease], list[FoundLease]]:
    """Return the leases that hold and those that have run out."""
    held: list[FoundLease] = []
    expired: list[FoundLease] = []
    for found in leases:
        (held if still_live(store, found, now, revoke=revoke) else expired).append(found)
    return held, expired


def _writer(held: Sequence[FoundLease]) -> str | None:
    """Say which writer is active."""
    for found in held:
        if found.lease.kind == "writer":
            return (
                f"a writer is active: {found.lease.what}, {found.key!r}; nothing is deleted meanwhile, so run gc "
                f"again when it has finished (a killed one holds its lease for {found.lease.ttl:.0f} s)"
            )
    return None
