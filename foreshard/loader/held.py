"""A layout that a loader reads, with the memory for its chunks and the threads that fill it."""

import weakref
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import AccessDeniedError, ConfigError, ObjectNotFoundError
from foreshard.keys import LayoutRef
from foreshard.loader.budget import memory_for_chunks
from foreshard.loader.corrupt import CorruptionGuard
from foreshard.loader.dealing import nodes_of
from foreshard.loader.options import LoaderOptions
from foreshard.loader.reading import chunk_fetcher, chunk_reader, following_chunks, make_gatherer, wanted_columns
from foreshard.loader.scheduling import ScheduleCache
from foreshard.loader.tiers import disk_traffic, node_fetcher, open_disk, open_shelf
from foreshard.prefetch.arena import Arena
from foreshard.prefetch.concurrency import Concurrency
from foreshard.prefetch.manifest import advice_of, read_prefetch
from foreshard.prefetch.node.stats import NodeStats
from foreshard.prefetch.prefetcher import Prefetcher
from foreshard.prefetch.region import Region
from foreshard.prefetch.requests import Requests
from foreshard.prefetch.schedule import forecast_uses, pinned_uses
from foreshard.prefetch.traffic import Traffic
from foreshard.shards.leases import ReaderLease
from foreshard.shards.manifest import Manifest
from foreshard.shards.repository import Repository

_LOCAL_BURST: Final = 16
_RUN_BYTES: Final = 16 << 20
"""Most bytes of a request for several chunks: what stores advise, and large enough for what a request costs itself."""


def hold_layout(repository: Repository, layout: LayoutRef | None, options: LoaderOptions, split: int) -> "HeldLayout":
    """Open a layout (the current one by default) under a lease, and make memory for it.

    Raises:
        AccessDeniedError: the credentials do not allow to write the lease.
        ObjectNotFoundError: there is no such layout, or nothing was published yet.
        ConfigError: the layout lacks a column.
        BudgetError: the memory cannot hold what is needed to make progress.
    """
    layout = None if layout is None else repository.find_layout(layout)
    shelf = open_shelf(options)
    if not options.lease_ttl:
        return HeldLayout(repository, repository.open(layout, shelf=shelf), options, split)
    run = options.logging.run if options.logging else None
    try:
        lease = repository.lease_reader(layout, ttl=options.lease_ttl, run=run)
    except AccessDeniedError as error:
        raise AccessDeniedError(
            f"a lease that keeps gc from the layout cannot be written: {error}; where this job may only read, set "
            "lease_ttl=0 in its LoaderOptions and let `retention` keep the layouts that it reads for long enough"
        ) from error
    try:
        return HeldLayout(repository, repository.open(lease.ref, shelf=shelf), options, split, lease)
    except BaseException:
        lease.release()
        raise


def check_move(at: Manifest, to: Manifest, options: LoaderOptions, epoch: int, step: int) -> None:
    """Refuse to go on with an epoch in a layout that would change what is seen.

    Args:
        at: the layout that is read.
        to: the other one.
        options: how samples are dealt.
        epoch: the epoch.
        step: its next step.

    Raises:
        ConfigError: the layout is of another snapshot, or samples are dealt by owner and the epoch has begun.
    """
    if to.header.fingerprint != at.header.fingerprint:
        raise ConfigError(
            f"layout {to.ref} is of snapshot {to.header.fingerprint}, this loader reads {at.header.fingerprint}; a run "
            "keeps its snapshot, start a new run for new data"
        )
    if step and options.dealing == "owner" and options.place.world > 1:
        raise ConfigError(
            f"epoch {epoch} is dealt by owner, up to step {step} as layout {at.ref} places the samples; move to "
            f"{to.ref} between epochs, on every rank"
        )


class HeldLayout:
    """An open layout with its prefetcher. No thread runs before `warm` or the prefetcher's `begin`.

    Args:
        repository: where the layout lies.
        manifest: the layout.
        options: memory, columns and place of the reader.
        split: code of the split that is read; its chunks size the memory.
        lease: keeps gc from the layout; None for none.

    Attributes:
        gatherer: takes rows from chunks in memory.
        arena: the memory.
        ideal: chunks in the memory of a MIN that has run beside the loader; None if none has from the last loop on.
        schedules: what epochs' schedules share.
        requests: how chunks are fetched.
        corruption: what is done about corrupt chunks, and what was.
        prefetcher: holds and fetches the chunks.
        disk: what the machine's processes share; None without.

    Raises:
        ConfigError: the layout lacks a column.
        BudgetError: the memory cannot hold what is needed to make progress.
    """

    def __init__(
        self,
        repository: Repository,
        manifest: Manifest,
        options: LoaderOptions,
        split: int,
        lease: ReaderLease | None = None,
    ) -> None:
        self.manifest, self.lease = manifest, lease
        self._repository, self._options = repository, options
        columns = wanted_columns(manifest, options.columns)
        self.gatherer = make_gatherer(manifest, columns)
        mine = manifest.splits == split
        self._mine = mine
        self._advised = True
        self._expect(np.where(mine, manifest.scores.astype(np.float64), 0.0))
        self.ideal: frozenset[int] | None = None
        self.schedules = ScheduleCache()
        held = int(manifest.nbytes[mine & np.isin(manifest.nodes, self.nodes)].sum())
        largest = int(manifest.nbytes[mine].max(initial=0))
        store = repository.store
        region = Region(memory_for_chunks(options, held, largest), largest)
        following = None if store.local else following_chunks(manifest)
        self.requests = Requests(Concurrency(options.max_concurrency), following, _RUN_BYTES)
        self.arena = Arena(region.capacity, region.bypass, self.gatherer.buffers)
        fetch = chunk_fetcher(store, manifest, self.gatherer, again=options.on_corrupt != "raise")
        self.disk = open_disk(options, manifest.nbytes[mine])
        self._disk_told = NodeStats()
        if self.disk is not None:
            fetch = node_fetcher(fetch, manifest, self.disk, self.gatherer)
        # What the machine shares is written to its disk first.
        self._reads = store.direct() if self.disk is None else None
        # Outermost, so that what is read in a chunk's place is never kept on disk as that chunk.
        self.corruption = CorruptionGuard(options.on_corrupt, manifest, self.gatherer, fetch)
        direct = None
        if self._reads is not None:
            direct = self.corruption.guard(chunk_reader(self._reads, manifest, self.gatherer))
        self.prefetcher = Prefetcher(
            self.corruption.fetch,
            manifest.nbytes,
            region,
            self.arena,
            timeout=options.timeout,
            burst=_LOCAL_BURST if store.local else 1,
            requests=self.requests,
            direct=direct,
        )
        # A loader that is dropped without being closed leaves no thread behind.
        self._finalizer = weakref.finalize(self, self.prefetcher.dismiss)
        self._finalizer.atexit = False

    @property
    def nodes(self) -> list[int]:
        """The layout's nodes that this rank reads for: several where there are fewer ranks than nodes."""
        return nodes_of(self._options.place, len(self.manifest.header.nodes))

    def keep(self) -> None:
        """Keep gc from the layout from now on, as long as this process lives.

        A thread renews the lease. Renewing between batches would lose it in a long step, such as a validation, while a
        job that hangs but lives costs no more than the space of its layout. The thread starts with the first loop.

        Raises:
            ObjectNotFoundError: the lease had run out before, and gc has removed the layout.
        """
        if self.lease is not None:
            self.lease.keep()

    def close(self) -> None:
        """Stop the threads, free the memory and give the lease up; all are taken again when they are needed."""
        try:
            self.prefetcher.close()
        finally:
            if self.disk is not None:
                self.disk.close()
            if self._reads is not None:
                self._reads.close()
            if self.lease is not None:
                self.lease.release()

    @property
    def trouble(self) -> str:
        """What was wrong with the disk tier the last time; nothing if nothing was, or there is none."""
        return "" if self.disk is None else self.disk.stats().last_trouble

    def take_traffic(self) -> Traffic:
        """Return what was moved since this was called last, into memory and through the disk tier."""
        traffic = self.prefetcher.take_traffic()
        if self.disk is None:
            return traffic
        before, self._disk_told = self._disk_told, self.disk.stats()
        return traffic + disk_traffic(before, self._disk_told)

    def uses_beyond(self, resident: frozenset[int], *, trusted: bool) -> NDArray[np.int64]:
        """Return the first use of every chunk beyond the known order, as far as anybody can tell; int64 (C,).

        The layout's own prediction tells until `warm` reads a newer one. Where there is none, or it is not trusted, or
        the prefetch manifest says that forecasts have done no better than without, what is in memory stays: on epochs
        that read everything once nothing does better.

        Args:
            resident: chunks in memory.
            trusted: whether the prediction may decide.
        """
        return self._uses if self._predicted and self._advised and trusted else pinned_uses(self._uses, resident)

    def _expect(self, scores: NDArray[np.float64]) -> None:
        """Take expected draws of every chunk, shape (C,); where all are 0, each is as good as another."""
        self._scores, self._predicted = scores, bool((scores > 0).any())
        self._uses = forecast_uses(scores if self._predicted else self._mine.astype(np.float64))

    def warm(self, *, share: float) -> int:
        """Begin to fetch the chunks that the prefetch manifests of this rank's nodes pin, best first.

        Args:
            share: share of the memory they may fill.

        Returns:
            The number of chunks asked for; 0 if the layout has no prefetch manifest for these nodes, or these pin none.
        """
        store, keys, names = self._repository.store, self._repository.keys, self.manifest.header.nodes
        tables: list[pa.Table] = []
        for node in self.nodes:
            try:
                tables.append(read_prefetch(store, keys, self.manifest.ref, names[node]))
            except ObjectNotFoundError:
                continue  # it only advises
        if not tables:
            return 0
        self._advised = all(advice_of(table).forecast_decides for table in tables)
        table = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
        chunks, expected = table.column("chunk").to_numpy(), table.column("expected").to_numpy()
        self._scores[chunks] = expected
        self._expect(self._scores)
        order = np.argsort(-expected / self.manifest.nbytes[chunks], kind="stable")
        pinned = chunks[order][table.column("pinned").to_numpy()[order]]
        self.prefetcher.warm(pinned.tolist(), share=share)
        return len(pinned)

    def forget(self) -> None:
        """Leave threads and locks alone that did not come along when the process forked."""
        self._finalizer.detach()
