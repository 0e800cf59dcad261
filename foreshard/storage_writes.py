"""What changes a store: puts, create-only puts, compare-and-swap, deletes; each right also when an answer is lost."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import obstore
from obstore import exceptions as ob

from foreshard.errors import ConflictError, ObjectExistsError, ObjectNotFoundError, StorageError
from foreshard.local import create_file, exclusive, is_plain
from foreshard.retries import pause, was_repeated
from foreshard.storage_reads import ReadableStore

if TYPE_CHECKING:
    from obstore import PutMode

MULTIPART_BYTES: Final = 64 << 20
"""From this size on `put` and `put_content` upload in parts."""
_PART_BYTES: Final = 16 << 20
_PARTS_IN_FLIGHT: Final = 4
_DELETES_IN_FLIGHT: Final = 16


@dataclass(frozen=True)
class Write:
    """A step that changes a store, told to `ObjectStore.on_write`.

    Attributes:
        action: what is done: `put` replaces, `create` writes only what is not there, `swap` only over what was read,
            `delete` and `abort` (of an unfinished upload) remove.
        key: the object; of several that are removed together the first.
        done: False right before the step, True right after it had its effect.
    """

    action: Literal["put", "create", "swap", "delete", "abort"]
    key: str
    done: bool


class WritableStore(ReadableStore):
    """A store with its writing half.

    Attributes:
        on_write: called with each `Write`, in the thread that writes; what it raises ends the operation there.
    """

    on_write: Callable[[Write], None] | None = None

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write an object, replacing what was there. The write is atomic: readers see the old or the new bytes."""
        with self._writing("put", key):
            self._put(key, data)

    def create(self, key: str, data: bytes | memoryview) -> bool:
        """Write an object unless it exists already.

        Equal content counts as there, not as a conflict: an attempt that was carried out, but lost its response, makes
        the next one meet its own bytes.

        Returns:
            True if this call wrote the object, False if an object of equal content was there. A write whose response
            was lost counts as there, so that of several writers of equal content one at most is told True.

        Raises:
            ObjectExistsError: an object of other content is there.
        """
        try:
            self._create(key, data)
        except ObjectExistsError:
            # The size first, so that a large object of someone else's is not read for nothing.
            meta = self.head(key)
            if meta is not None and meta.size == len(data) and self.get(key) == data:
                return False
            raise
        return True

    def put_content(self, key: str, data: bytes | memoryview, *, known_absent: bool = False) -> bool:
        """Write an object whose key names its content by a digest, unless it is there.

        An object of the same key and size is taken for the same content. From MULTIPART_BYTES on it is uploaded in
        parts, which cannot be create-only: if another writer is faster, equal bytes replace equal bytes, which is
        harmless.

        Args:
            key: its key, which must hold a digest of `data`.
            data: its bytes.
            known_absent: do not ask first whether it is there.

        Returns:
            True if this call wrote the object, False if it was there.

        Raises:
            StorageError: an object of another size is there.
        """
        if not known_absent and self._holds_content(key, len(data)):
            return False
        if len(data) >= MULTIPART_BYTES:
            with self._writing("put", key):
                self._put(key, data)
            return True
        try:
            self._create(key, data)
        except ObjectExistsError:
            if self._holds_content(key, len(data)):
                return False
            raise
        return True

    def swap(self, key: str, data: bytes, expected: str | None) -> None:
        """Replace an object only if its entity tag is still `expected` (None: only if there is none).

        S3 servers tag an object by the MD5 of its content, so A -> B -> A goes unseen: the content must hold something
        that never repeats, such as a fence number or a random token. By the same token a swap whose response was lost
        finds that it had succeeded. If others replaced it since, that cannot be told, and is a conflict.

        Raises:
            ConflictError: someone else wrote first.
        """
        with self._writing("swap", key):
            try:
                if not self.local:
                    self._swap_remotely(key, data, "create" if expected is None else {"e_tag": expected})
                elif expected is None:
                    self._put_if(key, data, "create")
                else:
                    self._swap_locally(key, data, expected)
            except ObjectExistsError as error:
                raise ConflictError(
                    f"{key!r} in {self.url} was created by someone else meanwhile; read it again"
                ) from error

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that do not exist are passed over."""
        unique = list(dict.fromkeys(keys))
        if not unique:
            return
        with self._writing("delete", unique[0]):
            if self.local:
                for key in unique:
                    self._delete(key)
            else:
                with ThreadPoolExecutor(min(len(unique), _DELETES_IN_FLIGHT)) as pool:
                    for _ in pool.map(self._delete, unique):
                        pass

    # -- inside ---------------------------------------------------------------------------------------
    @contextmanager
    def _writing(self, action: Literal["put", "create", "swap", "delete", "abort"], key: str) -> Generator[None]:
        """Tell the observer of a step before it is made and, if it had its effect, after it."""
        if self.on_write is not None:
            self.on_write(Write(action, key, done=False))
        yield
        if self.on_write is not None:
            self.on_write(Write(action, key, done=True))

    def _put(self, key: str, data: bytes | memoryview) -> None:
        in_parts = len(data) >= MULTIPART_BYTES

        def upload() -> None:
            obstore.put(
                self._patient,
                key,
                data,
                use_multipart=in_parts,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_IN_FLIGHT,
            )

        self._attempt(key, upload)

    def _create(self, key: str, data: bytes | memoryview) -> None:
        for attempt in range(self.timeouts.retries + 1):
            try:
                with self._writing("create", key):
                    self._put_if(key, data, "create")
            except ObjectExistsError:
                # AWS answers the same while another writer's put goes on, which may yet come to nothing.
                if attempt == self.timeouts.retries or self.exists(key):
                    raise
                pause(attempt)
            else:
                return

    def _put_if(self, key: str, data: bytes | memoryview, mode: "PutMode") -> None:
        def upload() -> None:
            if self._root is not None and mode == "create" and is_plain(key):
                create_file(self._root, key, data)
            else:
                obstore.put(self._patient, key, data, mode=mode, use_multipart=False)

        self._attempt(key, upload)

    def _swap_remotely(self, key: str, data: bytes, mode: "PutMode") -> None:
        """Put under a condition. An attempt that lost its answer makes the next one fail: the content tells."""
        lost = False

        def upload() -> None:
            nonlocal lost
            try:
                obstore.put(self._patient, key, data, mode=mode, use_multipart=False)
            except (ob.AlreadyExistsError, ob.PreconditionError) as error:
                lost = lost or was_repeated(error)
                if not (lost and self._holds(key, data)):
                    raise
            except (ob.BaseError, OSError):
                lost = True
                raise

        self._attempt(key, upload)

    def _holds(self, key: str, data: bytes | memoryview) -> bool:
        try:
            found = obstore.get(self._store, key)
            return found.meta["size"] == len(data) and bytes(found.bytes()) == data
        except FileNotFoundError:
            return False

    def _swap_locally(self, key: str, data: bytes, expected: str) -> None:
        with self._exclusive(key):
            present = self.get_tagged(key)
            if present is None or present[1] != expected:
                raise ConflictError(f"{key!r} in {self.url} was replaced by someone else meanwhile; read it again")
            self._put(key, data)

    def _holds_content(self, key: str, size: int) -> bool:
        meta = self.head(key)
        if meta is not None and meta.size != size:
            raise StorageError(
                f"{key!r} in {self.url} has {meta.size} bytes, but the content it is named for has {size}: "
                "it is damaged; delete it and run again"
            )
        return meta is not None

    def _delete(self, key: str) -> None:
        try:
            self._attempt(key, lambda: obstore.delete(self._patient, key))
        except ObjectNotFoundError:
            return

    def _exclusive(self, key: str) -> AbstractContextManager[object]:
        return self._memory_lock if self._root is None else exclusive(self._root, key)
