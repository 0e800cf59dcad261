"""A link may damage bytes that are intact in the store: what does not verify is read again before it counts."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from foreshard.errors import CorruptDataError
from foreshard.storage import ObjectStore

ATTEMPTS: Final = 4
_PAUSE_S: Final = 0.05

T = TypeVar("T")


def refetch(store: ObjectStore, read: Callable[[], T]) -> T:
    """Return what `read` returns; where bytes came over a network and do not verify, try up to `ATTEMPTS` times.

    Args:
        store: what is read from.
        read: fetches and verifies.

    Raises:
        CorruptDataError: the bytes did not verify, however often they were read.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return read()
        except CorruptDataError:
            if store.local:
                raise
            time.sleep(_PAUSE_S * attempt)
    return read()
