"""A layout that a loader reads, with the memory for its chunks and the threads that fill it."""

import weakref
from typing import Final

import numpy as np
import pyarrow as pa

from foreshard.errors import ObjectNotFoundError
from foreshard.loader.dealing import nodes_of
from foreshard.loader.options import LoaderOptions
from foreshard.loader.reading import chunk_fetcher, wanted_columns
from foreshard.prefetch.manifest import read_prefetch
from foreshard.prefetch.prefetcher import Prefetcher
from foreshard.prefetch.region import Region
from foreshard.shards.manifest import Manifest
from foreshard.shards.repository import Repository

_LOCAL_BURST: Final = 16


class HeldLayout:
    """An open layout with its prefetcher. No thread runs before `warm` or the prefetcher's `begin`.

    Args:
        repository: where the layout lies.
        manifest: the layout.
        options: memory, columns and place of the reader.
        split: code of the split that is read; its chunks size the memory.

    Attributes:
        schema: columns of a batch.
        scores: float64 (C,), expected draws of every chunk beyond the known order, by the layout's own prediction until
            `warm` reads a newer one.
        prefetcher: holds and fetches the chunks.

    Raises:
        ConfigError: the layout lacks a column.
        BudgetError: the memory cannot hold what is needed to make progress.
    """

    def __init__(self, repository: Repository, manifest: Manifest, options: LoaderOptions, split: int) -> None:
        self.manifest = manifest
        self._repository, self._options = repository, options
        columns = wanted_columns(manifest, options.columns)
        self.schema = pa.schema([manifest.schema.field(name) for name in columns])
        mine = manifest.splits == split
        self.scores = np.where(mine, manifest.scores.astype(np.float64), 0.0)
        budget = options.memory
        if budget is None:
            held = manifest.nbytes[mine & np.isin(manifest.nodes, self.nodes)].sum()
            budget = int(held * options.cache_fraction)
        store = repository.store
        self.prefetcher = Prefetcher(
            chunk_fetcher(store, manifest, columns),
            manifest.nbytes,
            Region(budget, int(manifest.nbytes[mine].max(initial=0))),
            timeout=options.timeout,
            burst=_LOCAL_BURST if store.local else 1,
        )
        # A loader that is dropped without being closed leaves no thread behind.
        self._finalizer = weakref.finalize(self, self.prefetcher.dismiss)
        self._finalizer.atexit = False

    @property
    def nodes(self) -> list[int]:
        """The layout's nodes that this rank reads for: several where there are fewer ranks than nodes."""
        return nodes_of(self._options.place, len(self.manifest.header.nodes))

    def warm(self, *, share: float) -> int:
        """Begin to fetch the chunks that the prefetch manifests of this rank's nodes pin, best first.

        Args:
            share: share of the memory they may fill.

        Returns:
            The number of chunks asked for; 0 if the layout has no prefetch manifest for these nodes.
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
        table = pa.concat_tables(tables)
        chunks, expected = table.column("chunk").to_numpy(), table.column("expected").to_numpy()
        self.scores[chunks] = expected
        order = np.argsort(-expected / self.manifest.nbytes[chunks], kind="stable")
        pinned = chunks[order][table.column("pinned").to_numpy()[order]]
        self.prefetcher.warm(pinned.tolist(), share=share, concurrency=self._options.max_concurrency)
        return len(pinned)

    def forget(self) -> None:
        """Leave threads and locks alone that did not come along when the process forked."""
        self._finalizer.detach()
