"""A pseudo-random permutation of 0..n-1 with random access: O(1) memory for any n.

A balanced Feistel network over the smallest even number of bits that covers n, with cycle walking (Black & Rogaway,
"Ciphers with arbitrary finite domains", CT-RSA 2002). The round function is splitmix64's finaliser; round keys are
Philox words of the seed.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.seeding import row_keys

_ROUNDS: Final = 8
_TABLED: Final = 2  # times as large as what is asked for may the domain be
_LEAST_TABLED: Final = 512
_MIX: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    return x ^ (x >> np.uint64(31))


class IndexPermutation:
    """A fixed permutation of 0..n-1.

    Args:
        seed: 16 bytes from `derive_seed`.
        n: size of the domain, at least 1.
    """

    def __init__(self, seed: bytes, n: int) -> None:
        self.n = n
        self._half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._domain = 1 << 2 * int(self._half)
        self._keys = row_keys(seed, np.arange(_ROUNDS, dtype=np.int64))

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the image of each position.

        Args:
            positions: shape (m,), values in 0..n-1.
        """
        wanted = np.asarray(positions, np.int64).astype(np.uint64)
        step = self._tabled() if self._domain <= _TABLED * max(len(wanted), _LEAST_TABLED) else self._encrypt
        out = step(wanted)
        outside = np.flatnonzero(out >= self.n)
        while len(outside):
            walked = step(out[outside])
            out[outside] = walked
            outside = outside[walked >= self.n]
        return out.astype(np.int64)

    def _tabled(self) -> Callable[[NDArray[np.uint64]], NDArray[np.uint64]]:
        """Return `_encrypt` by a table of the whole domain: where most of it is asked for, walking costs little."""
        table = self._encrypt(np.arange(self._domain, dtype=np.uint64))
        return lambda x: table[x]

    def _encrypt(self, x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = x >> self._half, x & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half) | right
