"""Reading chunks of an open layout: one for the prefetcher, or a whole split in sample-id order."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from foreshard.errors import ConfigError
from foreshard.prefetch.prefetcher import Fetch
from foreshard.shards.manifest import Manifest
from foreshard.shards.reading import read_chunk
from foreshard.shards.repository import Repository
from foreshard.splits import split_code
from foreshard.storage import ObjectStore

SAMPLE_ID: Final = "sample_id"


def wanted_columns(manifest: Manifest, columns: Sequence[str] | None) -> list[str]:
    """Return the columns to hand out, `sample_id` last.

    Raises:
        ConfigError: the layout has no such column, or one is named twice.
    """
    names = list(manifest.schema.names)
    if columns is None:
        return names
    for column in columns:
        if column not in names:
            raise ConfigError(f"column {column!r} is not in layout {manifest.ref}; it has {', '.join(names)}")
    if len(set(columns)) != len(columns):
        raise ConfigError(f"columns {', '.join(columns)} name one twice; name each once")
    return [*(c for c in columns if c != SAMPLE_ID), SAMPLE_ID]


def chunk_fetcher(store: ObjectStore, manifest: Manifest, columns: Sequence[str]) -> Fetch:
    """Return a function that reads one chunk: its byte range alone, verified, as views into the fetched bytes."""
    names = list(columns)
    whole = names == list(manifest.schema.names)

    def fetch(chunk: int) -> pa.RecordBatch:
        batch = read_chunk(store, manifest, chunk)
        return batch if whole else batch.select(names)

    return fetch


def read_split(
    repository: Repository, manifest: Manifest, split: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read all rows of a split, by ascending sample id: for validation and tests.

    Args:
        repository: where the layout lies.
        manifest: the open layout.
        split: `train`, `validation` or `test`.
        columns: as in `LoaderOptions`.
    """
    names = wanted_columns(manifest, columns)
    chunks = np.flatnonzero(manifest.splits == split_code(split)).astype(np.int32)
    batches = [batch.select(names) for batch in repository.read_chunks(manifest, chunks)]
    if not batches:
        return pa.schema([manifest.schema.field(name) for name in names]).empty_table()
    return pa.Table.from_batches(batches).sort_by(SAMPLE_ID).combine_chunks()
