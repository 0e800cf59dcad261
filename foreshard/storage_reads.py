"""What can be read from a store: whole objects, ranges of them, listings."""

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.store import LocalStore, MemoryStore, S3Store

from foreshard import forks
from foreshard.direct import URL_LIFE, DirectReads, FileReads, HttpReads
from foreshard.errors import ObjectNotFoundError, StorageError
from foreshard.local import LOCKS, local_file, read_range
from foreshard.ranges import cut_ranges, merge_ranges
from foreshard.retries import Timeouts, retrying
from foreshard.s3 import S3Address
from foreshard.storage_errors import translated

if TYPE_CHECKING:
    from obstore import ObjectMeta as RawMeta

T = TypeVar("T")


@dataclass(frozen=True)
class ObjectMeta:
    """What a listing tells of one object.

    Attributes:
        key: its key.
        size: bytes.
        e_tag: the store's own tag of the content; empty where it gives none.
        modified: when it was written, by the store's clock; S3 servers tell whole seconds.
    """

    key: str
    size: int
    e_tag: str
    modified: datetime


class ReadableStore:
    """The reading half of a store.

    Args:
        url: the store's URL, for messages.
        store: obstore's client for reads.
        s3: the bucket's address; None for a local folder or memory.
        patient: the client for listings and writes, which may be silent for longer; `store` if left out.
        timeouts: the deadlines of requests to S3.
    """

    def __init__(
        self,
        url: str,
        store: LocalStore | S3Store | MemoryStore,
        s3: S3Address | None = None,
        patient: S3Store | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.url = url
        self.endpoint = s3.endpoint if s3 else None
        self.timeouts = timeouts or Timeouts()
        self._store = store
        self._patient = store if patient is None else patient
        self._s3 = s3
        self._root = store.prefix if isinstance(store, LocalStore) else None
        self._memory_lock = Lock()

    @property
    def local(self) -> bool:
        """Whether objects lie on this machine, so that a read is quicker than a network's round trip."""
        return not isinstance(self._store, S3Store)

    def local_path(self, key: str) -> Path | None:
        """Return the file that holds an object of a local folder, so that it can be mapped; None for other stores."""
        return local_file(self._root, key) if self._root is not None else None

    def get(self, key: str) -> bytes:
        """Return a whole object.

        Raises:
            ObjectNotFoundError: there is none.
        """
        return self._attempt(key, lambda: bytes(obstore.get(self._store, key).bytes()))

    def get_tagged(self, key: str) -> tuple[bytes, str] | None:
        """Return an object with its entity tag, or None where there is none: what a compare-and-swap starts from."""

        def read() -> tuple[bytes, str | None]:
            result = obstore.get(self._store, key)
            return bytes(result.bytes()), result.meta["e_tag"]

        try:
            raw, tag = self._attempt(key, read)
        except ObjectNotFoundError:
            return None
        return raw, self._tag(raw, tag)

    def get_range(self, key: str, start: int, end: int) -> memoryview:
        """Return bytes `[start, end)` of an object without copying them.

        Raises:
            ObjectNotFoundError: there is no such object.
            StorageError: the object is shorter than `end`, or the range is not one.
        """
        self._check_range(key, start, end)
        if start == end:
            return memoryview(b"")
        if self._root is not None and (local := read_range(self._root, key, start, end)) is not None:
            return memoryview(local)
        with self._beyond_end(key, end):
            raw = self._attempt(key, lambda: memoryview(obstore.get_range(self._store, key, start=start, end=end)))
            if len(raw) != end - start:
                raise StorageError(f"{key!r} in {self.url} gave {len(raw)} bytes for the range [{start}, {end})")
        return raw

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return several byte ranges of one object; neighbours come from one request and share its memory.

        Raises:
            ObjectNotFoundError: there is no such object.
            StorageError: the object is shorter than the end of a range, or a range is not one.
        """
        for start, end in ranges:
            self._check_range(key, start, end)
        spans = merge_ranges(ranges)
        starts, ends = [start for start, _ in spans], [end for _, end in spans]

        # Merged here, as obstore's own merging panics where a merged range reaches beyond the object's end.
        def read() -> list[memoryview]:
            return [memoryview(b) for b in obstore.get_ranges(self._store, key, starts=starts, ends=ends, coalesce=0)]

        with self._beyond_end(key, max(ends, default=0)):
            buffers = self._attempt(key, read)
            if [len(b) for b in buffers] != [end - start for start, end in spans]:
                raise StorageError(
                    f"{key!r} in {self.url} gave {[len(b) for b in buffers]} bytes for the ranges {spans}"
                )
        return cut_ranges(ranges, spans, buffers)

    def direct(self) -> DirectReads | None:
        """Return what reads ranges straight into memory, where that can be: of local files, and over plain HTTP."""
        if self._root is not None:
            return FileReads(self._root)
        store = self._store
        if not isinstance(store, S3Store) or self._s3 is None or not self._s3.plain_http:
            return None

        def sign(key: str) -> str:
            forks.enter(self.url)
            return obstore.sign(store, "GET", key, timedelta(seconds=URL_LIFE))

        return HttpReads(sign, self.timeouts)

    def head(self, key: str) -> ObjectMeta | None:
        """Return what a listing would tell of an object, or None where there is none."""
        try:
            return _meta(self._attempt(key, lambda: obstore.head(self._store, key)))
        except ObjectNotFoundError:
            return None

    def exists(self, key: str) -> bool:
        """Whether there is an object under this key."""
        return self.head(key) is not None

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the path segments right below a prefix, sorted, without listing what lies in them."""
        found = self._attempt(prefix, lambda: obstore.list_with_delimiter(self._patient, prefix))
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"])

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectMeta]:
        """Yield the objects below a prefix in key order, those after the key `after` only if it is given.

        A prefix is whole path segments: `runs/a` holds `runs/a/x`, not `runs/ab`.
        """

        # A broken listing starts over: SeaweedFS does not list in key order, so one cannot go on behind the last key.
        def read() -> list[ObjectMeta]:
            return [_meta(meta) for batch in obstore.list(self._patient, prefix, offset=after) for meta in batch]

        found = self._attempt(prefix, read)
        yield from sorted((m for m in found if not m.key.startswith(LOCKS)), key=lambda meta: meta.key)

    # -- inside ---------------------------------------------------------------------------------------
    def _attempt(self, key: str, work: Callable[[], T]) -> T:
        """Do work on an object with the retries that S3 needs, its errors told in foreshard's words."""
        forks.enter(self.url)
        with translated(key, self.url, self._s3):
            return work() if self.local else retrying(work, self.timeouts)

    def _check_range(self, key: str, start: int, end: int) -> None:
        if not 0 <= start <= end:
            raise StorageError(f"[{start}, {end}) is not a byte range of {key!r} in {self.url}")

    @contextmanager
    def _beyond_end(self, key: str, end: int) -> Generator[None]:
        """Servers and local files word a range beyond the end differently: say it once, with both figures."""
        try:
            yield
        except StorageError as error:
            if type(error) is not StorageError:
                raise
            size = self._attempt(key, lambda: obstore.head(self._store, key)["size"])
            if end > size:
                raise StorageError(
                    f"{key!r} in {self.url} has {size} bytes; a range up to {end} was asked for"
                ) from error
            raise

    def _tag(self, raw: bytes, tag: str | None) -> str:
        """S3 servers' own tag; elsewhere a digest of the content, as local tags repeat within a clock tick."""
        if isinstance(self._store, S3Store):
            if tag is None:
                raise StorageError(f"{self.url} gives no entity tags; compare-and-swap needs them")
            return tag
        return hashlib.sha256(raw).hexdigest()

    def _errors(self, key: str) -> AbstractContextManager[None]:
        return translated(key, self.url, self._s3)


def _meta(raw: "RawMeta") -> ObjectMeta:
    return ObjectMeta(raw["path"], raw["size"], raw["e_tag"] or "", raw["last_modified"])
