"""The user's Parquet files: a snapshot with a fingerprint, and rows by sample id, every byte verified."""

from foreshard.source.checksums import BlockChecksums
from foreshard.source.reader import SourceReader
from foreshard.source.snapshot import Snapshot, SourceFile
from foreshard.source.taking import take_snapshot

__all__ = ["BlockChecksums", "Snapshot", "SourceFile", "SourceReader", "take_snapshot"]
