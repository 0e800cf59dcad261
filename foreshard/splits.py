"""Stable train/validation/test membership: a keyed hash of the sample key, so no re-shard moves a row across splits."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import ConfigError
from foreshard.seeding import derive_seed, row_keys

SPLITS: Final = ("train", "validation", "test")
"""Split names; a split's code is its position here."""

_ROUNDING: Final = 1e-9


def split_code(name: str) -> int:
    """Return the code of a split.

    Raises:
        ConfigError: there is no such split.
    """
    if name not in SPLITS:
        raise ConfigError(f"split {name!r} is unknown; use one of {', '.join(SPLITS)}")
    return SPLITS.index(name)


def assign_splits(sample_keys: NDArray[np.int64], fractions: Mapping[str, float], seed: int) -> NDArray[np.uint8]:
    """Return the split code of every sample.

    A sample's place on [0, 1) is a hash of (seed, its key) alone; the splits are consecutive intervals of it, in the
    order of `SPLITS`. Growing the train fraction therefore only adds samples to train.

    Args:
        sample_keys: shape (n,); sample ids, or `hash_keys` of a user's key column.
        fractions: share of each split; missing splits get 0; they must add up to 1.
        seed: the dataset's root seed.

    Raises:
        ConfigError: an unknown split, a negative share or a sum other than 1.
    """
    unknown = set(fractions) - set(SPLITS)
    if unknown:
        raise ConfigError(f"splits {sorted(unknown)} are unknown; use {', '.join(SPLITS)}")
    shares = np.array([fractions.get(name, 0.0) for name in SPLITS])
    if not (shares >= 0).all() or not abs(shares.sum() - 1) <= _ROUNDING:  # so put, NaN is refused too
        raise ConfigError(f"split fractions {dict(fractions)} must be at least 0 and add up to 1")
    # Bounds are integers: a comparison of floats could move a row when a library rounds differently.
    bounds = np.array([round(float(edge) * 2**53) for edge in np.cumsum(shares)[:-1]], np.uint64)
    places = row_keys(derive_seed(purpose="split", root=seed), sample_keys) >> np.uint64(11)
    return np.searchsorted(bounds, places, side="right").astype(np.uint8)


def hash_keys(values: Sequence[object]) -> NDArray[np.int64]:
    """Return a 64-bit hash of each value of a user's key column (its text), for `assign_splits`."""
    digests = b"".join(hashlib.blake2b(str(v).encode(), digest_size=8).digest() for v in values)
    return np.frombuffer(digests, "<i8").astype(np.int64)


def encode_splits(codes: NDArray[np.uint8]) -> bytes:
    """Return split codes as an Arrow IPC file with one uint8 column, in sample-id order."""
    batch = pa.record_batch({"split": pa.array(codes)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def decode_splits(raw: bytes) -> NDArray[np.uint8]:
    """Return the split codes that `encode_splits` wrote, without copying them."""
    column = pa.ipc.open_file(pa.BufferReader(raw)).read_all().column("split")
    return np.asarray(column.combine_chunks().to_numpy(zero_copy_only=True), np.uint8)
