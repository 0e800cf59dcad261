"""Ranged reads of source files over a link that may fail: each is tried again a few times."""

import time
from typing import Final

from foreshard.errors import AccessDeniedError, ObjectNotFoundError, SourceError, StorageError, UnreachableError
from foreshard.storage import ObjectStore

ATTEMPTS: Final = 5
"""How often a range is asked for before giving up."""

REQUEST_BYTES: Final = 8 << 20
"""Bytes of one request where more are wanted from a remote store: several run at a time."""

_FIRST_PAUSE: Final = 0.05
_PAUSE_GROWTH: Final = 4


def pause(store: ObjectStore, attempt: int) -> None:
    """Wait before an attempt: 0.05, 0.2, 0.8 and 3.2 s before the second to the fifth, not before the first.

    A local folder has no bad moments to wait out.
    """
    if attempt and not store.local:
        time.sleep(_FIRST_PAUSE * _PAUSE_GROWTH ** (attempt - 1))


def fetch(store: ObjectStore, key: str, start: int, end: int) -> memoryview:
    """Return bytes `[start, end)` of a source file, as the store gives them.

    Raises:
        SourceError: the file is gone, or the store failed at every attempt.
        AccessDeniedError: the store refuses the credentials.
        UnreachableError: the store could not be reached at the last attempt.
    """
    failure: StorageError | None = None
    for attempt in range(ATTEMPTS):
        pause(store, attempt)
        try:
            return store.get_range(key, start, end)
        except ObjectNotFoundError as error:
            raise SourceError(f"source file {key!r} in {store.url} is gone; put it back") from error
        except AccessDeniedError:
            raise
        except StorageError as error:
            failure = error
    if isinstance(failure, UnreachableError):
        raise failure
    raise SourceError(
        f"bytes [{start}, {end}) of source file {key!r} in {store.url} could not be read in {ATTEMPTS} attempts "
        f"({failure}); put the file back if it was cut, or try again"
    ) from failure
