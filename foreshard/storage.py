"""One URL (`file://`, `s3://`, `memory://`) -> ranged reads, create-only puts, compare-and-swap and listing.

obstore (Rust `object_store`) underneath; how an S3 bucket is reached is in `s3.py`.
"""

import hashlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.store import LocalStore, MemoryStore, S3Store

from foreshard.errors import (
    ConfigError,
    ConflictError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    UnreachableError,
)
from foreshard.local import LOCKS, exclusive, local_file, local_root, read_range
from foreshard.ranges import cut_ranges, merge_ranges
from foreshard.s3 import S3Address
from foreshard.storage_errors import translated

if TYPE_CHECKING:
    from obstore import ObjectMeta as RawMeta
    from pyarrow.fs import FileSystem


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


class ObjectStore:
    """A bucket or folder with the few operations that foreshard builds on.

    Open one with `ObjectStore.open`. Instances may be shared by threads, but not carried over a fork.
    """

    def __init__(self, url: str, store: LocalStore | S3Store | MemoryStore, s3: S3Address | None = None) -> None:
        self.url = url
        self.endpoint = s3.endpoint if s3 else None
        self._store = store
        self._s3 = s3
        self._root = store.prefix if isinstance(store, LocalStore) else None
        self._memory_lock = Lock()

    @classmethod
    def open(
        cls, url: str, *, endpoint: str | None = None, region: str = "us-east-1", must_exist: bool = False
    ) -> "ObjectStore":
        """Open a store and check once that it can be reached.

        Args:
            url: `file:///folder` (made if missing), `s3://bucket[/prefix]` or `memory://` (new and empty
                each time).
            endpoint: for `s3://`, the server's URL where it is not AWS; `AWS_ENDPOINT_URL` if left out.
            region: for `s3://`, the bucket's region; `AWS_REGION` takes precedence.
            must_exist: for `file://`, refuse a missing folder instead of making it.

        Raises:
            ConfigError: the URL's scheme is unknown, its bucket is missing or it holds credentials.
            UnreachableError: the endpoint does not answer or has no such bucket, or the folder cannot be made.
            AccessDeniedError: there are no credentials, or they were refused.
        """
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ConfigError(
                f"a {parts.scheme}:// store URL with '?', '#' or credentials before '@' is not usable: write %3F and "
                "%23 in a file URL, and give credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if parts.scheme == "memory":
            return cls(url, MemoryStore())
        if parts.scheme == "file":
            return cls(url, LocalStore(local_root(url, parts, must_exist=must_exist), mkdir=True))
        if parts.scheme == "s3" and parts.netloc:
            return cls._open_s3(url, S3Address.resolve(parts.netloc, parts.path, endpoint, region))
        raise ConfigError(f"store URL {url!r} is not usable: give file:///folder, s3://bucket/prefix or memory://")

    @classmethod
    def _open_s3(cls, url: str, address: S3Address) -> "ObjectStore":
        probe = cls(url, address.connect(quick=True), address)
        try:
            with probe._errors("(opening)"):
                next(iter(obstore.list(probe._store, chunk_size=1)), None)
        except StorageError as error:
            if type(error) is not StorageError:
                raise
            raise UnreachableError(f"{error}; check that the endpoint is an S3 server and the bucket's name") from error
        return cls(url, address.connect(), address)

    def __reduce__(self) -> tuple[object, ...]:
        """Let another process open the same place, with the credentials of its own environment.

        Raises:
            ConfigError: a `memory://` store, which is in this process alone.
        """
        if isinstance(self._store, MemoryStore):
            raise ConfigError(f"{self.url} cannot be opened by another process; use a file:// or s3:// store")
        return _reopen, (self.url, self.endpoint)

    @property
    def local(self) -> bool:
        """Whether objects lie on this machine, so that a read is quicker than a network's round trip."""
        return not isinstance(self._store, S3Store)

    def local_path(self, key: str) -> Path | None:
        """Return the file that holds an object of a local folder, so that it can be mapped; None for other stores."""
        return local_file(self._root, key) if self._root is not None else None

    # -- reading --------------------------------------------------------------------------------------
    def get(self, key: str) -> bytes:
        """Return a whole object.

        Raises:
            ObjectNotFoundError: there is none.
        """
        with self._errors(key):
            return bytes(obstore.get(self._store, key).bytes())

    def get_tagged(self, key: str) -> tuple[bytes, str] | None:
        """Return an object with its entity tag, or None where there is none: what a compare-and-swap starts from."""
        try:
            with self._errors(key):
                result = obstore.get(self._store, key)
                raw = bytes(result.bytes())
                tag = result.meta["e_tag"]
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
        with self._beyond_end(key, end), self._errors(key):
            raw = memoryview(obstore.get_range(self._store, key, start=start, end=end))
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
        # Merged here, as obstore's own merging panics where a merged range reaches beyond the object's end.
        with self._beyond_end(key, max((end for _, end in spans), default=0)), self._errors(key):
            buffers = [
                memoryview(part)
                for part in obstore.get_ranges(
                    self._store, key, starts=[s for s, _ in spans], ends=[e for _, e in spans], coalesce=0
                )
            ]
            if [len(b) for b in buffers] != [end - start for start, end in spans]:
                raise StorageError(
                    f"{key!r} in {self.url} gave {[len(b) for b in buffers]} bytes for the ranges {spans}"
                )
        return cut_ranges(ranges, spans, buffers)

    def head(self, key: str) -> ObjectMeta | None:
        """Return what a listing would tell of an object, or None where there is none."""
        try:
            with self._errors(key):
                return _meta(obstore.head(self._store, key))
        except ObjectNotFoundError:
            return None

    def exists(self, key: str) -> bool:
        """Whether there is an object under this key."""
        return self.head(key) is not None

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the path segments right below a prefix, sorted, without listing what lies in them."""
        with self._errors(prefix):
            found = obstore.list_with_delimiter(self._store, prefix)
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"])

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectMeta]:
        """Yield the objects below a prefix in key order, those after the key `after` only if it is given.

        A prefix is whole path segments: `runs/a` holds `runs/a/x`, not `runs/ab`.
        """
        with self._errors(prefix):
            found = [_meta(meta) for batch in obstore.list(self._store, prefix, offset=after) for meta in batch]
        yield from sorted((m for m in found if not m.key.startswith(LOCKS)), key=lambda meta: meta.key)

    # -- writing --------------------------------------------------------------------------------------
    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write an object, replacing what was there. The write is atomic: readers see the old or the new bytes."""
        with self._errors(key):
            obstore.put(self._store, key, data)

    def create(self, key: str, data: bytes | memoryview) -> bool:
        """Write an object unless it exists already.

        A retried put whose first response was lost meets its own bytes: equal content counts as there, not as a
        conflict.

        Returns:
            True if this call wrote the object, False if an object of equal content was there.

        Raises:
            ObjectExistsError: an object of other content is there.
        """
        try:
            with self._errors(key):
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
        except ObjectExistsError:
            if self.get(key) == data:
                return False
            raise
        return True

    def swap(self, key: str, data: bytes, expected: str | None) -> None:
        """Replace an object only if its entity tag is still `expected` (None: only if there is none).

        S3 servers tag an object by the MD5 of its content, so A -> B -> A goes unseen: the content must hold something
        that never repeats, such as a fence number.

        Raises:
            ConflictError: someone else wrote first.
        """
        if expected is None:
            try:
                with self._errors(key):
                    obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except ObjectExistsError as error:
                raise ConflictError(
                    f"{key!r} in {self.url} was created by someone else meanwhile; read it again"
                ) from error
        elif isinstance(self._store, S3Store):
            with self._errors(key):
                obstore.put(self._store, key, data, mode={"e_tag": expected}, use_multipart=False)
        else:
            with self._exclusive(key):
                present = self.get_tagged(key)
                if present is None or present[1] != expected:
                    raise ConflictError(f"{key!r} in {self.url} was replaced by someone else meanwhile; read it again")
                self.put(key, data)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that do not exist are passed over."""
        if isinstance(self._store, S3Store):
            if keys:  # one request for each thousand; MinIO's answer to a repeated key cannot be parsed
                with self._errors(keys[0]):
                    obstore.delete(self._store, list(dict.fromkeys(keys)))
            return
        for key in keys:
            try:
                with self._errors(key):
                    obstore.delete(self._store, key)
            except ObjectNotFoundError:
                continue

    # -- tables ---------------------------------------------------------------------------------------
    def filesystem(self) -> tuple["FileSystem", str]:
        """Return a pyarrow filesystem and the base path of this store in it, for pyarrow.dataset and pandas."""
        if self._s3 is not None:
            return self._tables, f"{self._s3.bucket}/{self._s3.prefix}".rstrip("/")
        if self._root is not None:
            return self._tables, str(self._root)
        raise ConfigError(f"{self.url} has no filesystem view; use a file:// or s3:// store for tables")

    @cached_property
    def _tables(self) -> "FileSystem":
        if self._s3 is not None:
            return self._s3.filesystem()
        from pyarrow import fs

        return fs.LocalFileSystem()

    # -- inside ---------------------------------------------------------------------------------------
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
            with self._errors(key):
                size = obstore.head(self._store, key)["size"]
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

    def _exclusive(self, key: str) -> AbstractContextManager[object]:
        return self._memory_lock if self._root is None else exclusive(self._root, key)

    def _errors(self, key: str) -> AbstractContextManager[None]:
        return translated(key, self.url, self._s3)


def _reopen(url: str, endpoint: str | None) -> ObjectStore:
    return ObjectStore.open(url, endpoint=endpoint)


def _meta(raw: "RawMeta") -> ObjectMeta:
    return ObjectMeta(raw["path"], raw["size"], raw["e_tag"] or "", raw["last_modified"])
