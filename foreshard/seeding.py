"""Seed -> PRNG -> permutation, as our own functions of Philox words, so that no upgrade can change a shuffle.

Two levels (research/optimise.md §3): *row keys* order and split samples by their global id, so the relative order
survives filtering and any re-chunking; *chunk seeds* drive the permutation of rows inside one chunk. A seed never
depends on a node, rank, worker count, time or chunk ordinal.

Philox4x32-10 is from Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC'11).
"""

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foreshard.errors import ConfigError

ALGORITHM_VERSION: Final = 1
"""Raised whenever the bytes that follow from a seed change; part of every seed and of every manifest."""

_PERSON: Final = b"foreshard.seed1"
_ALGORITHM: Final = "philox4x32-10"
_ROUNDS: Final = 10
_MULTIPLIERS: Final = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL: Final = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_MASK32: Final = np.uint64(0xFFFFFFFF)
_SHIFT32: Final = np.uint64(32)
_SEED_BYTES: Final = 16
_BLOCK: Final = 1 << 16  # samples keyed at a time: their words stay in the processor's cache, ten times as fast

SeedField = int | str | bytes | bool


def _encode(name: str, value: object) -> tuple[bytes, bytes]:
    if isinstance(value, bool):
        return b"B", b"\x01" if value else b"\x00"
    if isinstance(value, int):
        return b"I", str(value).encode("ascii")
    if isinstance(value, str):
        return b"S", value.encode("utf-8")
    if isinstance(value, bytes):
        return b"Y", value
    raise ConfigError(f"seed field {name!r} is {value!r}, a {type(value).__name__}; use an int, str, bytes or bool")


def canonical_bytes(fields: dict[str, SeedField]) -> bytes:
    """Encode named values so that equal values, and only those, give equal bytes.

    Fields are sorted by name; each is written as name length (u32 LE), name, type tag, value length (u64 LE), value.
    Integers are decimal ASCII. There are no floats: their text differs between platforms.

    Raises:
        ConfigError: a value is of another type, such as a float or a NumPy integer.
    """
    parts = [b"FSEED\x01"]
    for name in sorted(fields):
        tag, value = _encode(name, fields[name])
        raw = name.encode("utf-8")
        parts += [len(raw).to_bytes(4, "little"), raw, tag, len(value).to_bytes(8, "little"), value]
    return b"".join(parts)


def derive_seed(**fields: SeedField) -> bytes:
    """Return the 16-byte BLAKE2b seed of the named values (and of `ALGORITHM_VERSION`)."""
    payload = canonical_bytes({**fields, "algorithm_version": ALGORITHM_VERSION})
    return hashlib.blake2b(payload, digest_size=16, person=_PERSON).digest()


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Return Philox4x32-10 words for each counter.

    Args:
        counter: shape (n, 4), four 32-bit counter words a row.
        key: two 32-bit key words.

    Returns:
        Shape (n, 4) of uint32.
    """
    c0, c1, c2, c3 = (counter[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT32) ^ c1 ^ k0,
            p1 & _MASK32,
            (p0 >> _SHIFT32) ^ c3 ^ k1,
            p0 & _MASK32,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK32, (k1 + _WEYL[1]) & _MASK32
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def row_keys(seed: bytes, sample_ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return one uniform 64-bit key per sample, a function of (seed, sample id) alone.

    The seed's first eight bytes are the Philox key, its last eight the upper half of the counter.

    Args:
        seed: 16 bytes, as `derive_seed` returns.
        sample_ids: shape (n,).

    Returns:
        Shape (n,) of uint64.

    Raises:
        ConfigError: the seed is not 16 bytes long.
    """
    _check_seed(seed)
    ids = np.ascontiguousarray(sample_ids, np.int64).view(np.uint64)
    keys = np.empty(len(ids), np.uint64)
    counter = np.empty((min(len(ids), _BLOCK), 4), np.uint32)
    counter[:, 2], counter[:, 3] = _words(seed[8:])
    for start in range(0, len(ids), _BLOCK):
        block = ids[start : start + _BLOCK]
        rows = counter[: len(block)]
        rows[:, 0] = block & _MASK32
        rows[:, 1] = block >> _SHIFT32
        words = philox4x32(rows, _words(seed[:8])).astype(np.uint64)
        keys[start : start + _BLOCK] = words[:, 0] | (words[:, 1] << _SHIFT32)
    return keys


def uniforms(seed: bytes, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return one uniform float in [0, 1) per position, with 53 random bits."""
    return (row_keys(seed, positions) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _check_seed(seed: bytes) -> None:
    if len(seed) != _SEED_BYTES:
        raise ConfigError(f"seed {seed.hex()!r} has {len(seed)} bytes; it needs {_SEED_BYTES}, as derive_seed gives")


def _words(raw: bytes) -> tuple[int, int]:
    return int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:8], "little")


@dataclass(frozen=True)
class PrngState:
    """Where a Philox stream stands: enough to continue it anywhere.

    Attributes:
        seed: the 16 bytes that key the stream.
        position: how many 64-bit words have been drawn.

    Raises:
        ConfigError: the seed is not 16 bytes long or the position is negative.
    """

    seed: bytes
    position: int = 0

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        if self.position < 0:
            raise ConfigError(f"PRNG position {self.position} is negative; it counts words from 0")

    def to_json(self) -> dict[str, str]:
        """Return the state as hexadecimal strings (JSON numbers lose precision above 2**53)."""
        return {"algorithm": _ALGORITHM, "seed": self.seed.hex(), "position": f"{self.position:x}"}

    @classmethod
    def from_json(cls, state: dict[str, str]) -> "PrngState":
        """Rebuild a state from `to_json`'s output.

        Raises:
            ConfigError: the state is of another algorithm, lacks a field or is not hexadecimal.
        """
        if state.get("algorithm") != _ALGORITHM:
            raise ConfigError(f"PRNG state {state} is not of the algorithm {_ALGORITHM!r}; it cannot be continued here")
        try:
            return cls(bytes.fromhex(state["seed"]), int(state["position"], 16))
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"PRNG state {state} is malformed: it needs 'seed' and 'position' in hexadecimal"
            ) from error


def permutation(state: PrngState, n: int) -> tuple[NDArray[np.int64], PrngState]:
    """Return a uniform permutation of 0..n-1 by sorting one 64-bit key per position, and the state after it.

    Ties (probability about n² / 2**65) are broken by position, so the result is always defined.

    Raises:
        ConfigError: `n` is negative.
    """
    if n < 0:
        raise ConfigError(f"a permutation of {n} things was asked for; the number must be at least 0")
    keys = row_keys(state.seed, np.arange(state.position, state.position + n, dtype=np.int64))
    return np.argsort(keys, kind="stable").astype(np.int64), PrngState(state.seed, state.position + n)


@dataclass(frozen=True)
class Origin:
    """What the bytes of a chunk follow from, beside its rows.

    Attributes:
        fingerprint: the snapshot it was first written for.
        strategy: the strategy that arranged it then.
        root_seed: the dataset's root seed then.
        compression: of the shard's record batches; no seed depends on it.
    """

    fingerprint: str
    strategy: str
    root_seed: int
    compression: str = "none"
