"""One URL (`file://`, `s3://`, `memory://`) -> ranged reads, create-only puts, compare-and-swap and listing.

obstore (Rust `object_store`) underneath. What a store does is in `storage_reads.py` and `storage_writes.py`, how
an S3 bucket is reached in `s3.py`, and what is repeated when something fails in `retries.py`.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.store import LocalStore, MemoryStore

from foreshard import forks
from foreshard.errors import ConfigError, StorageError, UnreachableError
from foreshard.local import local_root
from foreshard.retries import Timeouts
from foreshard.s3 import S3Address
from foreshard.storage_reads import ObjectMeta
from foreshard.storage_writes import MULTIPART_BYTES, WritableStore, Write
from foreshard.uploads import Upload, abort_local, abort_s3, local_uploads, s3_uploads

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["MULTIPART_BYTES", "ObjectMeta", "ObjectStore", "Timeouts", "Upload", "Write"]


class ObjectStore(WritableStore):
    """A bucket or folder with the few operations that foreshard builds on.

    Open one with `ObjectStore.open`. Instances may be shared by threads, but not carried over a fork: a process that
    was forked after its parent had used any store can use none, and is told so (`foreshard.forks`). Ranges of objects
    in a local folder are the exception: those are read without obstore.
    """

    @classmethod
    def open(
        cls,
        url: str,
        *,
        endpoint: str | None = None,
        region: str = "us-east-1",
        must_exist: bool = False,
        timeouts: Timeouts | None = None,
    ) -> "ObjectStore":
        """Open a store and check once that it can be reached.

        Args:
            url: `file:///folder` (made if missing), `s3://bucket[/prefix]` or `memory://` (new and empty
                each time).
            endpoint: for `s3://`, the server's URL where it is not AWS; `AWS_ENDPOINT_URL` if left out.
            region: for `s3://`, the bucket's region; `AWS_REGION` takes precedence.
            must_exist: for `file://`, refuse a missing folder instead of making it.
            timeouts: for `s3://`, the deadlines of requests.

        Raises:
            ConfigError: the URL's scheme is unknown, its bucket is missing or it holds credentials, or this process was
                forked from one that had used a store.
            UnreachableError: the endpoint does not answer or has no such bucket, or the folder cannot be made.
            AccessDeniedError: there are no credentials, or they were refused.
        """
        forks.check(url)
        return cls._connect(url, endpoint, region, must_exist=must_exist, timeouts=timeouts or Timeouts())

    @classmethod
    def _connect(
        cls, url: str, endpoint: str | None, region: str, *, must_exist: bool, timeouts: Timeouts
    ) -> "ObjectStore":
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
            address = S3Address.resolve(parts.netloc, parts.path, endpoint, region)
            return cls._open_s3(url, address, timeouts)
        raise ConfigError(f"store URL {url!r} is not usable: give file:///folder, s3://bucket/prefix or memory://")

    @classmethod
    def _open_s3(cls, url: str, address: S3Address, timeouts: Timeouts) -> "ObjectStore":
        if not forks.lost():
            cls._probe(url, address, timeouts.for_opening())
        # Two clients, as an upload is silent until it is answered, while a read that is silent for so long is lost.
        return cls(url, address.connect(timeouts), address, address.connect(timeouts, patient=True), timeouts)

    @classmethod
    def _probe(cls, url: str, address: S3Address, timeouts: Timeouts) -> None:
        probe = cls(url, address.connect(timeouts), address, timeouts=timeouts)
        try:
            probe._attempt("(opening)", lambda: next(iter(obstore.list(probe._store, chunk_size=1)), None))
        except StorageError as error:
            if type(error) is not StorageError:
                raise
            raise UnreachableError(f"{error}; check that the endpoint is an S3 server and the bucket's name") from error

    def __reduce__(self) -> tuple[object, ...]:
        """Let another process open the same place, with the credentials of its own environment.

        Raises:
            ConfigError: a `memory://` store, which is in this process alone.
        """
        if isinstance(self._store, MemoryStore):
            raise ConfigError(f"{self.url} cannot be opened by another process; use a file:// or s3:// store")
        return ObjectStore._reopen, (self.url, self.endpoint, self.timeouts)

    @classmethod
    def _reopen(cls, url: str, endpoint: str | None, timeouts: Timeouts) -> "ObjectStore":
        # A forked process may hand the store on, and refuses it only when it is used: where unpickling fails, a pool of
        # processes never answers.
        return cls._connect(url, endpoint, "us-east-1", must_exist=False, timeouts=timeouts)

    # -- unfinished uploads ---------------------------------------------------------------------------
    def uploads(self, prefix: str) -> list[Upload]:
        """Return the uploads below a prefix that were begun and not finished, oldest first.

        Nobody sees them in a listing, but they are kept, and paid for. Some may still be going on: judge by their age.
        On S3 these are uploads in parts, in a local folder the files that a killed writer leaves behind.

        Args:
            prefix: whole path segments, as in `list`.
        """
        with self._errors(prefix):
            if self._s3 is not None:
                return s3_uploads(self._s3, self.timeouts, prefix)
            return [] if self._root is None else local_uploads(self._root, prefix)

    def abort_uploads(self, uploads: Iterable[Upload]) -> None:
        """Remove unfinished uploads, as `uploads` returned them; those that are gone are passed over."""
        for upload in uploads:
            with self._writing("abort", upload.key), self._errors(upload.key):
                if self._s3 is not None:
                    abort_s3(self._s3, self.timeouts, upload)
                elif self._root is not None:
                    abort_local(self._root, upload)

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
            return self._s3.filesystem(self.timeouts)
        from pyarrow import fs

        return fs.LocalFileSystem()
