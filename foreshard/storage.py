"""One URL (`file://`, `s3://`, `memory://`) -> ranged reads, create-only puts, compare-and-swap and listing.

obstore (Rust `object_store`) underneath. Credentials come from the environment or the standard AWS chain only; they
are never part of a URL, stored or logged.
"""

import fcntl
import hashlib
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import obstore
from obstore import exceptions as ob
from obstore.store import LocalStore, MemoryStore, S3Store

from foreshard.errors import (
    AccessDeniedError,
    ConfigError,
    ConflictError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    UnreachableError,
)

if TYPE_CHECKING:
    from obstore.store import S3Config
    from pyarrow.fs import FileSystem

_RETRIES: Final = 4
_RETRY_SECONDS: Final = 8.0
_LOCKS: Final = ".locks"


@dataclass(frozen=True)
class ObjectMeta:
    """What a listing tells of one object: its key, size in bytes and entity tag."""

    key: str
    size: int
    e_tag: str


class ObjectStore:
    """A bucket or folder with the few operations that foreshard builds on.

    Open one with `ObjectStore.open`. Instances may be shared by threads, but not carried over a fork.
    """

    def __init__(self, url: str, store: LocalStore | S3Store | MemoryStore, endpoint: str | None = None) -> None:
        self.url = url
        self.endpoint = endpoint
        self._store = store
        self._root = Path(urlsplit(url).path) if isinstance(store, LocalStore) else None
        self._memory_lock = Lock()

    @classmethod
    def open(cls, url: str, *, endpoint: str | None = None, region: str = "us-east-1") -> "ObjectStore":
        """Open a store and check once that it can be reached.

        Args:
            url: `file:///folder` (made if missing), `s3://bucket[/prefix]` or `memory://`.
            endpoint: for `s3://`, the server's URL where it is not AWS; `AWS_ENDPOINT_URL` if left out.
            region: for `s3://`, the bucket's region; `AWS_REGION` takes precedence.

        Raises:
            ConfigError: the URL's scheme is unknown or its bucket is missing.
            UnreachableError: the endpoint does not answer or has no such bucket.
            AccessDeniedError: the credentials were refused.
        """
        parts = urlsplit(url)
        if parts.scheme == "memory":
            return cls(url, MemoryStore())
        if parts.scheme == "file":
            return cls._open_local(url, parts.netloc, parts.path)
        if parts.scheme == "s3" and parts.netloc:
            return cls._open_s3(url, endpoint or os.environ.get("AWS_ENDPOINT_URL"), region)
        raise ConfigError(f"store URL {url!r} is not usable: give file:///folder, s3://bucket/prefix or memory://")

    @classmethod
    def _open_local(cls, url: str, netloc: str, path: str) -> "ObjectStore":
        if netloc or not path:
            raise ConfigError(f"store URL {url!r} is not usable: a file URL has three slashes, like file:///data")
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnreachableError(f"store folder {path!r} cannot be made: {error}") from error
        return cls(url, LocalStore(path, mkdir=True))

    @classmethod
    def _open_s3(cls, url: str, endpoint: str | None, region: str) -> "ObjectStore":
        config: S3Config = {"region": os.environ.get("AWS_REGION", region)}
        if endpoint:
            config["endpoint"] = endpoint
        raw = S3Store.from_url(
            url,
            config=config,
            client_options={
                "allow_http": True,
                "timeout": timedelta(seconds=30),
                "connect_timeout": timedelta(seconds=3),
            },
            retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_SECONDS)},
        )
        store = cls(url, raw, endpoint)
        with store._errors("(opening)"):
            next(iter(obstore.list(raw, chunk_size=1)), None)
        return store

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
            StorageError: the object is shorter than `end`.
        """
        with self._errors(key):
            raw = memoryview(obstore.get_range(self._store, key, start=start, end=end))
        self._check_length(key, start, end, raw)
        return raw

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return several byte ranges of one object; neighbours are fetched in one request."""
        with self._errors(key):
            parts = obstore.get_ranges(self._store, key, starts=[r[0] for r in ranges], ends=[r[1] for r in ranges])
        views = [memoryview(part) for part in parts]
        for (start, end), view in zip(ranges, views, strict=True):
            self._check_length(key, start, end, view)
        return views

    def exists(self, key: str) -> bool:
        """Whether there is an object under this key."""
        try:
            with self._errors(key):
                obstore.head(self._store, key)
        except ObjectNotFoundError:
            return False
        return True

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectMeta]:
        """Yield the objects below a prefix in key order, those after the key `after` only if it is given."""
        with self._errors(prefix):
            found = [
                ObjectMeta(meta["path"], meta["size"], meta["e_tag"] or "")
                for batch in obstore.list(self._store, prefix, offset=after)
                for meta in batch
            ]
        yield from sorted((m for m in found if not m.key.startswith(_LOCKS)), key=lambda meta: meta.key)

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
        for key in keys:
            try:
                with self._errors(key):
                    obstore.delete(self._store, key)
            except ObjectNotFoundError:
                continue

    # -- tables ---------------------------------------------------------------------------------------
    def filesystem(self) -> tuple["FileSystem", str]:
        """Return a pyarrow filesystem and the base path of this store in it, for pyarrow.dataset and pandas."""
        from pyarrow import fs

        if self._root is not None:
            return fs.LocalFileSystem(), str(self._root)
        if not isinstance(self._store, S3Store):
            raise ConfigError(f"{self.url} has no filesystem view; use a file:// or s3:// store for tables")
        import s3fs

        parts = urlsplit(self.url)
        remote = s3fs.S3FileSystem(endpoint_url=self.endpoint) if self.endpoint else s3fs.S3FileSystem()
        handler: Any = fs.FSSpecHandler  # its stub misses methods, so it looks abstract
        return fs.PyFileSystem(handler(remote)), f"{parts.netloc}{parts.path}".rstrip("/")

    # -- inside ---------------------------------------------------------------------------------------
    def _check_length(self, key: str, start: int, end: int, raw: memoryview) -> None:
        if len(raw) != end - start:
            raise StorageError(f"{key!r} in {self.url} gave {len(raw)} bytes for the range [{start}, {end})")

    def _tag(self, raw: bytes, tag: str | None) -> str:
        """S3 servers' own tag; elsewhere a digest of the content, as local tags repeat within a clock tick."""
        if isinstance(self._store, S3Store):
            if tag is None:
                raise StorageError(f"{self.url} gives no entity tags; compare-and-swap needs them")
            return tag
        return hashlib.sha256(raw).hexdigest()

    @contextmanager
    def _exclusive(self, key: str) -> Generator[None]:
        """Hold a lock that the kernel drops when its holder dies."""
        if self._root is None:
            with self._memory_lock:
                yield
            return
        folder = self._root / _LOCKS
        folder.mkdir(exist_ok=True)
        with (folder / hashlib.sha256(key.encode()).hexdigest()[:32]).open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _errors(self, key: str) -> Generator[None]:
        where = f"{key!r} in {self.url}" + (f" at {self.endpoint}" if self.endpoint else "")
        try:
            yield
        except ob.AlreadyExistsError as error:
            raise ObjectExistsError(f"{where} exists already with other content") from error
        except ob.PreconditionError as error:
            raise ConflictError(f"{where} was replaced by someone else meanwhile; read it again") from error
        except FileNotFoundError as error:
            if isinstance(self._store, S3Store) and "NoSuchBucket" in str(error):
                raise UnreachableError(f"the bucket of {self.url} does not exist; create it first") from error
            raise ObjectNotFoundError(f"there is no object {where}") from error
        except (ob.PermissionDeniedError, ob.UnauthenticatedError, PermissionError) as error:
            raise AccessDeniedError(
                f"access to {where} was denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
            ) from error
        except ob.BaseError as error:
            raise self._transport_error(where, error) from error

    def _transport_error(self, where: str, error: Exception) -> StorageError:
        text = str(error).split("\n\nDebug", maxsplit=1)[0]
        if "NoSuchBucket" in text:
            return UnreachableError(f"the bucket of {self.url} does not exist; create it first")
        if any(sign in text for sign in ("error sending request", "Connect", "timed out", "credential", "169.254")):
            return UnreachableError(
                f"{where} cannot be reached; check the endpoint, that the server runs, and that AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY are set ({text})"
            )
        return StorageError(f"{where}: {text}")
