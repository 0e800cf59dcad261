"""Intermediate results of one generation in the object store: Parquet tables and small JSON documents."""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from foreshard.chain.result import digest_of
from foreshard.chain.tables import StoredTable, TableWriter
from foreshard.errors import CorruptDataError, ObjectExistsError, ObjectNotFoundError, StorageError
from foreshard.keys import DatasetKeys
from foreshard.storage import ObjectStore

T = TypeVar("T")


def encode_table(table: pa.Table) -> bytes:
    """Return a table as Parquet (zstd)."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def decode_table(raw: bytes, key: str) -> pa.Table:
    """Return the table of a Parquet object.

    Raises:
        CorruptDataError: the bytes are not Parquet; names `key`.
    """
    try:
        return pq.read_table(pa.BufferReader(raw))
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptDataError(f"object {key!r} is not readable as Parquet ({error}); run its stage again") from error


def encode_json(value: Mapping[str, Any]) -> bytes:
    """Return canonical JSON: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


class Work:
    """What the stages of one generation hand to each other.

    Args:
        store: where it lies.
        keys: names of the dataset's objects.
        generation: `<run>.e<epoch>`.
    """

    def __init__(self, store: ObjectStore, keys: DatasetKeys, generation: str) -> None:
        self.generation = generation
        self._store = store
        self._keys = keys

    def put_table(self, name: str, table: pa.Table) -> str:
        """Write `<name>.parquet` and return the digest of its bytes."""
        raw = encode_table(table)
        self._store.put(self._key(f"{name}.parquet"), raw)
        return digest_of(raw)

    def table(self, name: str, *, stage: str) -> pa.Table:
        """Return the table `<name>.parquet` that `stage` writes.

        Raises:
            StorageError: the stage has not run for this generation.
        """
        key = self._key(f"{name}.parquet")
        return decode_table(self._written(key, stage, self._store.get), key)

    def put_rows(self, name: str, rows: TableWriter) -> str:
        """Write `<name>.parquet` out of what a writer collected, and return the digest of its bytes."""
        return rows.finish(lambda raw: self._store.put(self._key(f"{name}.parquet"), raw))

    def rows(self, name: str, *, stage: str) -> StoredTable:
        """Return the table `<name>.parquet` that `stage` writes, to be read a part at a time.

        Raises:
            StorageError: the stage has not run for this generation.
        """
        return self._written(self._key(f"{name}.parquet"), stage, lambda key: StoredTable(self._store, key))

    def put_json(self, name: str, value: Mapping[str, Any]) -> str:
        """Write `<name>.json` and return the digest of its bytes."""
        raw = encode_json(value)
        self._store.put(self._key(f"{name}.json"), raw)
        return digest_of(raw)

    def json(self, name: str, *, stage: str) -> dict[str, Any]:
        """Return the document `<name>.json` that `stage` writes.

        Raises:
            StorageError: the stage has not run for this generation.
        """
        return json.loads(self._written(self._key(f"{name}.json"), stage, self._store.get))

    def find_json(self, name: str) -> dict[str, Any] | None:
        """Return the document `<name>.json`, or None where there is none."""
        try:
            return json.loads(self._store.get(self._key(f"{name}.json")))
        except ObjectNotFoundError:
            return None

    def create_json(self, name: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Write `<name>.json` unless it exists, and return the one that stands."""
        key = self._key(f"{name}.json")
        try:
            self._store.create(key, encode_json(value))
        except ObjectExistsError:
            return json.loads(self._store.get(key))
        return dict(value)

    def _key(self, name: str) -> str:
        return self._keys.work(self.generation, name)

    def _written(self, key: str, stage: str, read: Callable[[str], T]) -> T:
        try:
            return read(key)
        except ObjectNotFoundError as error:
            raise StorageError(
                f"{key!r} is missing in {self._store.url}; run the stage {stage} of generation {self.generation} first"
            ) from error
