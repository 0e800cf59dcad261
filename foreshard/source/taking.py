"""Take a snapshot: list the Parquet files, read every byte once, record what it was."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import SourceError
from foreshard.source.checksums import BlockChecksums
from foreshard.source.digest import digest_content
from foreshard.source.parquet import ParquetRows
from foreshard.source.snapshot import Snapshot, SourceFile, check_columns
from foreshard.source.verified import VerifiedFile
from foreshard.storage import ObjectMeta, ObjectStore

_FILES_AT_A_TIME: Final = 4


@dataclass(frozen=True)
class _Found:
    """A file as it is now: its record, the checksums of its blocks and its columns."""

    file: SourceFile
    sums: NDArray[np.uint64]
    schema: pa.Schema


def take_snapshot(
    url: str, *, endpoint: str | None = None, required: Sequence[str] = (), previous: Snapshot | None = None
) -> Snapshot:
    """List the Parquet files below a URL, digest their content and read their footers.

    Args:
        url: a store URL, see `ObjectStore.open`; every `*.parquet` below it belongs to the source.
        endpoint: S3 endpoint, if not AWS.
        required: columns that must be there (the target and key columns).
        previous: the snapshot to extend. If all its files are there unchanged, they come first, in its order, and new
            files follow in key order: samples keep their ids. If not, the source is in another state that shares no
            ids with it, and all files are in key order. Files whose tag in the listing still stands are not read again.

    Raises:
        SourceError: no file, no row, an unreadable file, files of different schemas, or a required column that is
            missing.
        UnreachableError: there is no such folder, bucket or endpoint.
    """
    store = ObjectStore.open(url, endpoint=endpoint, must_exist=True)
    metas = [meta for meta in store.list("") if meta.key.endswith(".parquet")]
    if not metas:
        raise SourceError(f"source {url} holds no .parquet file; point dataset.source at a folder of Parquet files")
    standing = _standing(previous) if previous and (previous.url, previous.endpoint) == (url, endpoint) else {}
    found: dict[str, _Found] = {}
    schema: pa.Schema | None = None
    for one in _read_files(store, metas, standing):
        schema = schema or one.schema
        if not one.schema.equals(schema):
            raise SourceError(
                f"source file {one.file.key!r} in {url} has other columns than {metas[0].key!r}: "
                f"{_difference(schema, one.schema)}; give all files of a source the same schema"
            )
        found[one.file.key] = one
    assert schema is not None
    if not sum(one.file.rows for one in found.values()):
        raise SourceError(f"source {url} has {len(found)} files but no row; there is nothing to train on")
    check_columns(url, schema, required)
    in_order = _in_order(found, previous)
    blocks = BlockChecksums.of([one.sums for one in in_order])
    return Snapshot(url, endpoint, tuple(one.file for one in in_order), schema.serialize().to_pybytes().hex(), blocks)


def _standing(previous: Snapshot) -> Mapping[str, _Found]:
    """Return what a snapshot knows of its files, by key; nothing if it has no checksums."""
    if previous.blocks is None:
        return {}
    return {
        file.key: _Found(file, previous.file_sums(number), previous.schema)
        for number, file in enumerate(previous.files)
        if file.version
    }


def _read_files(store: ObjectStore, metas: Sequence[ObjectMeta], standing: Mapping[str, _Found]) -> Iterator[_Found]:
    """Yield what the files hold, in the order given; several are read at a time, as networks answer slowly."""

    def read(meta: ObjectMeta) -> _Found:
        known = standing.get(meta.key)
        if known and (known.file.size, known.file.version) == (meta.size, meta.e_tag):
            return known
        return _read_file(store, meta)

    pool = ThreadPoolExecutor(_FILES_AT_A_TIME, "snapshot")
    try:
        yield from pool.map(read, metas)
    finally:
        pool.shutdown(cancel_futures=True)


def _read_file(store: ObjectStore, meta: ObjectMeta) -> _Found:
    content = digest_content(store, meta)
    file = SourceFile(meta.key, meta.size, content.sha256, 0, meta.e_tag)
    # The footer is read again after the digest, verified by it: so it belongs to the content that was digested.
    parquet = ParquetRows(VerifiedFile(store, file, content.sums, "the snapshot being taken"))
    return _Found(replace(file, rows=parquet.rows), content.sums, parquet.schema)


def _in_order(found: Mapping[str, _Found], previous: Snapshot | None) -> list[_Found]:
    """Return the files in key order, after those of the snapshot that they extend."""
    first: list[str] = []
    if previous and all(f.key in found and found[f.key].file.content == f.content for f in previous.files):
        first = [file.key for file in previous.files]
    return [found[key] for key in [*first, *sorted(found.keys() - set(first))]]


def _difference(expected: pa.Schema, found: pa.Schema) -> str:
    """Name the first column in which two schemas differ."""
    for name in dict.fromkeys([*expected.names, *found.names]):
        if name not in found.names:
            return f"it lacks {name!r}"
        if name not in expected.names:
            return f"it has {name!r} beside"
        if not expected.field(name).equals(found.field(name)):
            return f"{name!r} is {_described(found.field(name))}, not {_described(expected.field(name))}"
    return f"their order is {', '.join(found.names)}"


def _described(field: "pa.Field[pa.DataType]") -> str:
    return f"{field.type}" if field.nullable else f"{field.type} not null"
