"""Stable train/validation/test membership: a keyed hash of the sample key, so no re-shard moves a row across splits."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import ConfigError, CorruptDataError
from foreshard.seeding import derive_seed, row_keys

SPLITS: Final = ("train", "validation", "test")
"""Split names; a split's code is its position here."""

_ROUNDING: Final = 1e-9
_SHA256: Final = b"sha256"


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
    """Return split codes as an Arrow IPC file with one uint8 column, in sample-id order, and their SHA-256 beside."""
    codes = np.ascontiguousarray(codes, np.uint8)
    batch = pa.record_batch({"split": pa.array(codes)}).replace_schema_metadata({_SHA256: _digest(codes)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def decode_splits(raw: bytes, *, verify: bool = True) -> NDArray[np.uint8]:
    """Return the split codes that `encode_splits` wrote, without copying them.

    Args:
        raw: the bytes.
        verify: compare the codes with their digest; only to look at what was written without one, leave it out.

    Raises:
        CorruptDataError: the bytes are no split codes, or do not match their digest.
    """
    try:
        file = pa.ipc.open_file(pa.BufferReader(raw))
        stated = (file.schema.metadata or {}).get(_SHA256)
        # All rows are in one batch; a table's column would have to be copied to become an array.
        column = file.get_batch(0).column("split")
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        raise CorruptDataError(f"these {len(raw)} bytes are no column of split codes ({error})") from error
    if column.type != pa.uint8() or column.null_count:
        raise CorruptDataError(f"the split codes are {column.type} with {column.null_count} nulls, not uint8 without")
    codes = np.asarray(column.to_numpy(zero_copy_only=True), np.uint8)
    if verify:
        if stated is None:
            raise CorruptDataError("the split codes carry no digest of themselves")
        if stated != _digest(codes):
            raise CorruptDataError(f"the {len(codes)} split codes do not match the digest that they carry")
    return codes


def check_splits_stable(earlier: NDArray[np.uint8], later: NDArray[np.uint8]) -> None:
    """Check that the samples of a snapshot are in the same splits in one that extends it.

    Args:
        earlier: (n,) split codes of the snapshot.
        later: (m,) split codes of the snapshot that extends it, m >= n.

    Raises:
        CorruptDataError: samples are missing or moved across splits; the first is named.
    """
    if len(later) < len(earlier):
        raise CorruptDataError(
            f"the later snapshot has splits of {len(later)} samples, the earlier one of {len(earlier)}; it does not "
            "extend it: take it again with the earlier snapshot as `previous`"
        )
    moved = np.flatnonzero(later[: len(earlier)] != earlier)
    if len(moved):
        sample = int(moved[0])
        old, new = (SPLITS[code] if code < len(SPLITS) else f"code {code}" for code in (earlier[sample], later[sample]))
        raise CorruptDataError(
            f"{len(moved)} of {len(earlier)} samples moved across splits; the first is sample {sample}, from {old} "
            f"to {new}: set dataset.seed, dataset.key and dataset.splits back and save the later snapshot again"
        )


def _digest(codes: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(codes.data).hexdigest().encode()
