"""Seed -> PRNG -> permutation, as our own functions of Philox words, so that no upgrade can change a shuffle.

Two levels (research/optimise.md §3): *row keys* order and split samples by their global id, so the relative order
survives filtering and any re-chunking; *chunk seeds* drive the permutation of rows inside one chunk. A seed never
depends on a node, rank, worker count, time or chunk ordinal.

Philox4x32-10 is from Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC'11).
"""

import hashlib
from dataclasses import asdict, dataclass
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
_BLOCK: Final = 1 << 14  # samples keyed at a time: their words stay in the processor's cache
_POSITIONS: Final = 2**63 - 1  # words in a stream: positions are int64 wherever they are arrays

_Words = NDArray[np.uint64]
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


def derive_seeds(name: str, values: NDArray[np.uint8], **fields: SeedField) -> NDArray[np.uint8]:
    """Return `derive_seed(**fields, name=value)` for every value, bit for bit, hashing what is common once.

    Args:
        name: the field that differs.
        values: shape (n, width), the field's bytes, one value a row.
        fields: the fields that all share.

    Returns:
        Shape (n, 16).
    """
    # Values of one width leave everything around them in place: find where by encoding two that differ everywhere.
    width = values.shape[1]
    common = {**fields, "algorithm_version": ALGORITHM_VERSION}
    low, high = (canonical_bytes({**common, name: bytes([fill]) * width}) for fill in (0, 255))
    start = next((at for at, pair in enumerate(zip(low, high, strict=True)) if pair[0] != pair[1]), len(low))
    after = low[start + width :]
    base = hashlib.blake2b(low[:start], digest_size=_SEED_BYTES, person=_PERSON)
    seeds = np.empty((len(values), _SEED_BYTES), np.uint8)
    for first in range(0, len(values), _BLOCK):  # in blocks, so that a Python object per value is held only briefly
        block = values[first : first + _BLOCK]
        raw = block.tobytes()
        digests = [_digest(base, raw[i * width : (i + 1) * width] + after) for i in range(len(block))]
        seeds[first : first + _BLOCK] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _SEED_BYTES)
    return seeds


def _digest(base: hashlib.blake2b, rest: bytes) -> bytes:
    state = base.copy()
    state.update(rest)
    return state.digest()


@dataclass(frozen=True)
class Origin:
    """What a chunk's seed follows from beside its samples: the snapshot and plan that first made the chunk.

    A chunk that later layouts keep keeps its bytes, hence its origin.

    Attributes:
        fingerprint: the snapshot's fingerprint.
        strategy: name of the partitioning strategy.
        root_seed: the dataset's root seed.
        compression: of its record batch; no seed depends on it.
    """

    fingerprint: str
    strategy: str
    root_seed: int
    compression: str = "none"

    def seed_fields(self) -> dict[str, SeedField]:
        """Return the fields of a chunk's seed, all but `content_id`."""
        return {"purpose": "chunk", "root": self.root_seed, "fingerprint": self.fingerprint, "strategy": self.strategy}

    def to_json(self) -> dict[str, str | int]:
        """Return the origin as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, str | int]) -> "Origin":
        """Rebuild an origin from `to_json`'s output.

        Raises:
            ConfigError: a field is missing or of another type.
        """
        names = ("fingerprint", "strategy", "root_seed", "compression")
        fingerprint, strategy, root_seed, compression = map(raw.get, names)
        if not isinstance(fingerprint, str) or not isinstance(strategy, str) or type(root_seed) is not int:
            raise ConfigError(f"origin {raw} is malformed: it needs texts fingerprint, strategy and integer root_seed")
        return cls(fingerprint, strategy, root_seed, str(compression or "none"))


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int] | NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return Philox4x32-10 words for each counter.

    Args:
        counter: shape (n, 4), four 32-bit counter words a row.
        key: two 32-bit key words, or a pair for each counter, shape (n, 2).

    Returns:
        Shape (n, 4) of uint32.
    """
    pair = np.asarray(key, np.uint64)
    words = _philox([counter[:, i].astype(np.uint64) for i in range(4)], pair[..., 0], pair[..., 1])
    return np.stack(words, axis=1).astype(np.uint32)


def _philox(words: list[_Words], k0: _Words, k1: _Words) -> list[_Words]:
    """Run the rounds on four counter words and two key words, each 32 bits in a uint64, of shapes that broadcast."""
    c0, c1, c2, c3 = words
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT32) ^ c1 ^ k0,
            p1 & _MASK32,
            (p0 >> _SHIFT32) ^ c3 ^ k1,
            p0 & _MASK32,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK32, (k1 + _WEYL[1]) & _MASK32
    return [c0, c1, c2, c3]


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
    ids = np.ascontiguousarray(sample_ids, np.int64)
    keys = np.empty(len(ids), np.uint64)
    words = np.frombuffer(seed, "<u4")
    for start in range(0, len(ids), _BLOCK):
        keys[start : start + _BLOCK] = _first_words(ids[start : start + _BLOCK], words)
    return keys


def row_keys_of(
    seeds: NDArray[np.uint8], which: NDArray[np.int64], sample_ids: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return `row_keys(seeds[which[i]], sample_ids[i])` for every i, bit for bit.

    Args:
        seeds: shape (s, 16).
        which: shape (n,), the row of `seeds` that keys each sample.
        sample_ids: shape (n,).

    Returns:
        Shape (n,) of uint64.
    """
    ids = np.ascontiguousarray(sample_ids, np.int64)
    keys = np.empty(len(ids), np.uint64)
    words = np.ascontiguousarray(seeds).view("<u4")
    for start in range(0, len(ids), _BLOCK):
        block = slice(start, start + _BLOCK)
        keys[block] = _first_words(ids[block], words[which[block]])
    return keys


def _first_words(ids: NDArray[np.int64], seed: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return the first 64 bits of each id's Philox output; `seed` is four words, shape (4,) or (n, 4)."""
    low = ids.view(np.uint64)
    k0, k1, upper0, upper1 = (np.atleast_1d(seed[..., i]).astype(np.uint64) for i in range(4))
    words = _philox([low & _MASK32, low >> _SHIFT32, upper0, upper1], k0, k1)
    return words[0] | (words[1] << _SHIFT32)


def uniforms(seed: bytes, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return one uniform float in [0, 1) per position, with 53 random bits."""
    return (row_keys(seed, positions) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _check_seed(seed: bytes) -> None:
    if len(seed) != _SEED_BYTES:
        raise ConfigError(f"seed {seed.hex()!r} has {len(seed)} bytes; it needs {_SEED_BYTES}, as derive_seed gives")


@dataclass(frozen=True)
class PrngState:
    """Where a Philox stream stands: enough to continue it anywhere.

    Attributes:
        seed: the 16 bytes that key the stream.
        position: how many 64-bit words have been drawn.

    Raises:
        ConfigError: the seed is not 16 bytes long or the position is not in 0..2**63-1.
    """

    seed: bytes
    position: int = 0

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        if not 0 <= self.position <= _POSITIONS:
            raise ConfigError(f"PRNG position {self.position} is not in 0..2**63-1; take another seed for a new stream")

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


def raw_words(state: PrngState, n: int) -> tuple[NDArray[np.uint64], PrngState]:
    """Draw the stream's next `n` 64-bit words: shape (n,), and the state after them.

    Raises:
        ConfigError: `n` is negative, or the stream ends before.
    """
    if n < 0:
        raise ConfigError(f"{n} random words were asked for; the number must be at least 0")
    after = PrngState(state.seed, state.position + n)
    return row_keys(state.seed, np.arange(state.position, after.position, dtype=np.int64)), after


def permutation(state: PrngState, n: int) -> tuple[NDArray[np.int64], PrngState]:
    """Return a uniform permutation of 0..n-1 by sorting one 64-bit key per position, and the state after it.

    Ties (probability about n² / 2**65) are broken by position, so the result is always defined.

    Raises:
        ConfigError: `n` is negative, or the stream ends before.
    """
    if n < 0:
        raise ConfigError(f"a permutation of {n} things was asked for; the number must be at least 0")
    keys, after = raw_words(state, n)
    return np.argsort(keys, kind="stable").astype(np.int64), after
