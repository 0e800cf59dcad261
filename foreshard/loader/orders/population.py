"""The sample ids that an order draws from: an array, or a range that takes no memory."""

import hashlib
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshard.errors import ConfigError

PopulationLike = ArrayLike | range
"""Sample ids as an integer array or a range, or an int n for the ids 0..n-1."""

_NONE: Final = "the order has no samples: the split is empty; change dataset.splits or read another split"
_BLOCK: Final = 1 << 20
_DIGEST_BYTES: Final = 16


class Population:
    """Sample ids by position.

    Ids at equal distances are kept as a range, whatever they were given as: three numbers for any size. Others stay in
    the integer type they come in.

    Args:
        ids: integers, shape (n,), or a range, or an int n for the ids 0..n-1.

        none: what to say if there are none.

    Raises:
        ConfigError: there are none, or they are not a row of integers (a mask, say).
    """

    def __init__(self, ids: PopulationLike, none: str = _NONE) -> None:
        self._ids: range | NDArray[np.signedinteger | np.unsignedinteger] = _as_ids(ids)
        if not len(self._ids):
            raise ConfigError(none)
        self._digest: str | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids at some positions, each in 0..n-1; int64, shape (m,)."""
        if isinstance(self._ids, range):
            return self._ids.start + positions * self._ids.step
        return self._ids[positions].astype(np.int64)

    def slice(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the ids at positions start..stop-1, as far as there are any; int64, a copy."""
        part = self._ids[start:stop]
        if isinstance(part, range):
            return np.arange(part.start, part.stop, part.step, dtype=np.int64)
        return part.astype(np.int64)

    def lowest(self) -> int:
        """Return the smallest id."""
        if isinstance(self._ids, range):
            return min(self._ids[0], self._ids[-1])
        return int(self._ids.min())

    def ascends(self) -> bool:
        """Return whether every id is above the one before."""
        if isinstance(self._ids, range):
            return self._ids.step > 0
        return all((np.diff(self.slice(at, at + _BLOCK + 1)) > 0).all() for at in range(0, len(self), _BLOCK))

    def positions(self, sample_ids: ArrayLike) -> NDArray[np.int64]:
        """Return the position of each id in a population that ascends; int64, shape (m,).

        Raises:
            ConfigError: an id is not in the population, or is no integer.
        """
        given = np.asarray(sample_ids)
        if given.dtype.kind not in "iu" and given.size:
            raise ConfigError(
                f"sample ids have the type {given.dtype}, the first is {given.ravel()[0]}; give integers (for a mask, "
                "np.flatnonzero(mask))"
            )
        wanted = given.astype(np.int64)
        if isinstance(self._ids, range):
            found = (wanted - self._ids.start) // self._ids.step
        else:
            found = np.searchsorted(self._ids, wanted).astype(np.int64)
        foreign = self.take(np.clip(found, 0, len(self) - 1)) != wanted
        if foreign.any():
            raise ConfigError(
                f"sample id {wanted[foreign][0]} is not in the order's population; give ids of its split only"
            )
        return found

    @property
    def digest(self) -> str:
        """BLAKE2b of the ids in hexadecimal: equal for the same ids, whatever they were given as."""
        if self._digest is None:
            digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
            if isinstance(self._ids, range):
                digest.update(f"range {self._ids.start} {self._ids.step} {len(self)}".encode())
            else:
                for at in range(0, len(self), _BLOCK):
                    digest.update(self.slice(at, at + _BLOCK).astype("<i8").tobytes())
            self._digest = digest.hexdigest()
        return self._digest


def _as_ids(ids: PopulationLike) -> range | NDArray[np.signedinteger | np.unsignedinteger]:
    if isinstance(ids, range):
        return ids if len(ids) != 1 else range(ids.start, ids.start + 1)
    if isinstance(ids, (int, np.integer)) and not isinstance(ids, bool):
        return range(int(ids))
    array = np.asarray(ids)
    if array.ndim == 1 and not len(array):
        return range(0)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ConfigError(
            f"sample ids have the shape {array.shape} and type {array.dtype}; give one row of integers (for a mask, "
            "np.flatnonzero(mask)), a range, or an int"
        )
    return _as_range(array) or array


def _as_range(ids: NDArray[np.signedinteger | np.unsignedinteger]) -> range | None:
    first, last = int(ids[0]), int(ids[-1])
    step = int(ids[1]) - first if len(ids) > 1 else 1
    if not step or last - first != step * (len(ids) - 1):
        return None
    for at in range(0, len(ids), _BLOCK):
        part = ids[at : at + _BLOCK].astype(np.int64)
        if (part != first + step * np.arange(at, at + len(part), dtype=np.int64)).any():
            return None
    return range(first, first + step * len(ids), step)


def digest_of(values: NDArray[np.float64]) -> str:
    """Return the BLAKE2b of some floats in hexadecimal."""
    return hashlib.blake2b(values.astype("<f8").tobytes(), digest_size=_DIGEST_BYTES).hexdigest()
