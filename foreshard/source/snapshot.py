"""One state of the source: its files, their content, and the fingerprint that names it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import SourceError
from foreshard.source.checksums import BlockChecksums, block_count


@dataclass(frozen=True)
class SourceFile:
    """One file of a snapshot.

    Attributes:
        key: its key in the source's store.
        size: bytes.
        e_tag: digest of the content: the same files give the same fingerprint on every store.
        rows: number of rows.
        version: the store's own tag when the snapshot was taken; no part of the fingerprint. While it stands, the
            content need not be read again to know that it is the same.
    """

    key: str
    size: int
    e_tag: str
    rows: int
    version: str = ""

    @property
    def content(self) -> tuple[str, int, str, int]:
        """What the fingerprint tells of the file: key, size, digest and rows."""
        return self.key, self.size, self.e_tag, self.rows


@dataclass(frozen=True)
class Snapshot:
    """One state of the source. `sample_id` is a row's position in the concatenation of `files`.

    Attributes:
        url: URL of the store or folder that holds the files.
        endpoint: S3 endpoint of that store, if not AWS.
        files: those of the snapshot that this one extends, in their order, then the others in key order; so ids are
            extended, never renumbered.
        schema_hex: the serialised Arrow schema, in hexadecimal.
        blocks: checksums of the files' blocks, against which everything read is verified; None if they were not
            recorded. No part of the fingerprint, nor of equality.
    """

    url: str
    endpoint: str | None
    files: tuple[SourceFile, ...]
    schema_hex: str
    blocks: BlockChecksums | None = field(default=None, compare=False, repr=False)

    @cached_property
    def rows(self) -> int:
        """Number of samples."""
        return sum(file.rows for file in self.files)

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema of every file."""
        return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(self.schema_hex)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (first 32 hex digits) of keys, sizes, digests and row counts of the files, and the schema.

        Not of where the files lie, nor of `schema_hex`, whose bytes another version of Arrow may write differently.
        """
        state = [list(file.content) for file in self.files]
        columns = [[field.name, str(field.type), field.nullable] for field in self.schema]
        return hashlib.sha256(json.dumps([state, columns]).encode()).hexdigest()[:32]

    def extends(self, earlier: "Snapshot") -> bool:
        """Whether this snapshot starts with the files of an earlier one, so that sample ids mean the same in both."""
        first = self.files[: len(earlier.files)]
        return [file.content for file in first] == [file.content for file in earlier.files]

    # -- checksums -------------------------------------------------------------------------------------
    def checksums(self) -> BlockChecksums:
        """Return the checksums of the files' blocks.

        Raises:
            SourceError: they were not recorded.
        """
        if self.blocks is None:
            raise SourceError(
                f"snapshot {self.fingerprint} of {self.url} has no block checksums, so what is read cannot be "
                "verified; take the snapshot again (`take_snapshot`) and save it"
            )
        return self.blocks

    def file_sums(self, number: int) -> NDArray[np.uint64]:
        """Return the checksums of the blocks of `files[number]`, shape (blocks,).

        Raises:
            SourceError: checksums were not recorded, or not for all files.
            CorruptDataError: their record is damaged.
        """
        sums, edges = self.checksums().sums, self._block_edges
        if len(sums) != edges[-1]:
            raise SourceError(
                f"snapshot {self.fingerprint} of {self.url} has {len(sums)} block checksums for files of {edges[-1]} "
                "blocks; take the snapshot again (`take_snapshot`) and save it"
            )
        return sums[edges[number] : edges[number + 1]]

    @cached_property
    def _block_edges(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(block_count(file.size) for file in self.files)])

    # -- records ---------------------------------------------------------------------------------------
    def to_record(self) -> dict[str, Any]:
        """Return the snapshot as JSON values; of the block checksums, what binds them to it."""
        return {
            "url": self.url,
            "endpoint": self.endpoint,
            "files": [asdict(file) for file in self.files],
            "schema_hex": self.schema_hex,
            "fingerprint": self.fingerprint,
            "rows": self.rows,
            "blocks": self.blocks and self.blocks.record(),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], blocks: BlockChecksums | None = None) -> "Snapshot":
        """Rebuild a snapshot from `to_record`'s output and its checksums."""
        files = tuple(SourceFile(**file) for file in record["files"])
        return cls(record["url"], record["endpoint"], files, record["schema_hex"], blocks)

    def to_json(self) -> str:
        """Return the snapshot as JSON text."""
        return json.dumps(self.to_record(), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Snapshot":
        """Rebuild a snapshot from `to_json`'s output, without block checksums: it cannot be read from."""
        return cls.from_record(json.loads(text))


def check_columns(url: str, schema: pa.Schema, wanted: Sequence[str]) -> None:
    """Refuse columns that a source does not have.

    Raises:
        SourceError: one is missing; the message names those there are.
    """
    for column in wanted:
        if column not in schema.names:
            raise SourceError(f"source {url} has no column {column!r}; it has {', '.join(schema.names)}")
