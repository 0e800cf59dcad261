"""Take leases: readers on a layout, writers on the generation they make; gc deletes nothing from under them.

The order of steps is what protects (see `gc_state`): first the lease, then a look at `gc.json`, then the objects.
"""

import time
from collections.abc import Callable
from typing import Final, Self

from foreshard.errors import DeadlineError, ObjectNotFoundError
from foreshard.keys import DatasetKeys, LayoutRef, parse_generation_key
from foreshard.shards.gc_state import GcState, live_sweep
from foreshard.shards.held_lease import HeldLease
from foreshard.shards.lease_record import Lease, new_lease
from foreshard.shards.manifest import Manifest
from foreshard.shards.pointer import read_pointer
from foreshard.shards.swapping import elapsed
from foreshard.storage import ObjectStore

DEFAULT_TTL: Final = 600.0
"""Seconds that a lease outlives its holder."""

WRITER_TIMEOUT: Final = 1200.0
"""Seconds that a writer waits for a sweep; a killed one ends by itself before that."""

READER_TIMEOUT: Final = 60.0
"""Seconds that a reader waits until gc has decided about the layout that it wants."""

_PAUSE_S: Final = 0.1


class WriterLease(HeldLease):
    """A writer's lease; call `renew` right before a layout's header is written and before the pointer moves."""

    def __enter__(self) -> Self:
        self.keep()
        return self


class ReaderLease(HeldLease):
    """A reader's lease on one layout. If it runs out while the layout is still there, renewing takes a new one.

    Attributes:
        ref: the layout.
    """

    def __init__(
        self,
        store: ObjectStore,
        keys: DatasetKeys,
        lease: Lease,
        ref: LayoutRef,
        opener: Callable[[LayoutRef], Manifest],
    ) -> None:
        self.ref, self._opener = ref, opener
        super().__init__(store, keys, lease)

    def manifest(self) -> Manifest:
        """Open the layout, and keep the lease from now on.

        Raises:
            CorruptDataError: a part is missing or damaged.
        """
        self.keep()
        return self._opener(self.ref)

    def _regain(self) -> None:
        fresh = lease_reader(
            self._store, self._keys, self._opener, ref=self.ref, ttl=self._lease.ttl, run=self._lease.owner.run
        )
        self._lease, self._tag, self._released = fresh._lease, None, False  # noqa: SLF001 - of the same class


# -- taking one ----------------------------------------------------------------------------------------


def lease_reader(
    store: ObjectStore,
    keys: DatasetKeys,
    opener: Callable[[LayoutRef], Manifest],
    *,
    ref: LayoutRef | None = None,
    ttl: float = DEFAULT_TTL,
    run: str | None = None,
    timeout: float = READER_TIMEOUT,
) -> ReaderLease:
    """Take a lease on a layout; no thread is started.

    Args:
        store: where it is.
        keys: names of the dataset's objects.
        opener: opens a layout.
        ref: the layout; the current one if left out.
        ttl: seconds that the lease outlives its holder.
        run: name of the training job.
        timeout: seconds to wait until gc has decided about the layout.

    Raises:
        ObjectNotFoundError: there is no such layout, it is being removed, or nothing was published yet.
        AccessDeniedError: the credentials do not allow to write.
        DeadlineError: gc did not decide in time.
    """
    began = elapsed()
    while True:
        target = ref or _current(store, keys)
        held = ReaderLease(store, keys, new_lease("reader", ttl, layout=target, run=run), target, opener)
        try:
            sweep = live_sweep(store, keys, held.key)
            if _protects(store, keys, target, sweep, asked=ref is not None):
                return held
        except BaseException:
            held.release()
            raise
        held.release()
        if sweep is not None:
            _wait(began, timeout, f"gc ({sweep.owner}) to decide whether layout {target} goes")


def _protects(store: ObjectStore, keys: DatasetKeys, ref: LayoutRef, sweep: GcState | None, *, asked: bool) -> bool:
    """Whether a layout is there, under a lease that was taken before `sweep` was looked for, and will stay.

    Args:
        store: where it is.
        keys: names of the dataset's objects.
        ref: the layout.
        sweep: what is under way.
        asked: whether it is wanted itself, not as the current one: then what does not stay is an error.
    """
    if sweep is not None and ref in sweep.doomed:
        if asked and sweep.decided:
            raise ObjectNotFoundError(
                f"layout {ref} is being removed by gc ({sweep.owner}); read the current one, or lengthen `retention` "
                "and materialise its plan again"
            )
        return False
    if store.exists(keys.layout(ref.generation, ref.plan_digest, "manifest.json")):
        return True
    if asked or _current(store, keys) == ref:
        raise ObjectNotFoundError(
            f"layout {ref} is not committed in {store.url}, or gc has removed it; materialise and commit it"
        )
    return False


def lease_writer(
    store: ObjectStore,
    keys: DatasetKeys,
    generation: str,
    *,
    ttl: float = DEFAULT_TTL,
    timeout: float = WRITER_TIMEOUT,
) -> WriterLease:
    """Take a lease for making and publishing a generation, once no sweep is under way.

    Args:
        store: where it is.
        keys: names of the dataset's objects.
        generation: what is made.
        ttl: seconds that the lease outlives its holder.
        timeout: seconds to wait for a sweep.

    Raises:
        DeadlineError: a sweep did not end in time.
    """
    run, _ = parse_generation_key(generation)
    began = elapsed()
    held = WriterLease(store, keys, new_lease("writer", ttl, generation=generation, run=run))
    try:
        while (sweep := live_sweep(store, keys, held.key)) is not None:
            _wait(began, timeout, _sweep_end(keys, sweep))
            held.renew()
    except BaseException:
        held.release()
        raise
    return held


def _sweep_end(keys: DatasetKeys, sweep: GcState) -> str:
    return f"gc of dataset {keys.dataset!r} ({sweep.owner}, sweep {sweep.fence}) to end"


def _current(store: ObjectStore, keys: DatasetKeys) -> LayoutRef:
    found = read_pointer(store, keys)
    if found is None:
        raise ObjectNotFoundError(
            f"dataset {keys.dataset!r} has no current layout in {store.url}; bootstrap first: materialise and publish "
            "the generation of epoch 0, '<run>.e000000'"
        )
    return found[0].ref


def _wait(began: float, timeout: float, what: str) -> None:
    waited = elapsed() - began
    if waited > timeout:
        raise DeadlineError(f"waited {waited:.1f} s for {what}, {timeout} s were allowed; try again, or allow more")
    time.sleep(min(_PAUSE_S + waited / 10, 1.0))
