"""What a dataset's layouts are made from: snapshots, splits and plans, recorded create-only."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import ConfigError, CorruptDataError, ObjectExistsError
from foreshard.keys import DatasetKeys, LayoutRef
from foreshard.layout.plan import Plan
from foreshard.shards.header import PartRef
from foreshard.shards.parts import load_part, part_ref
from foreshard.shards.refetch import refetch
from foreshard.shards.sealed import seal, unseal
from foreshard.source import BlockChecksums, Snapshot
from foreshard.splits import decode_splits, encode_splits
from foreshard.storage import ObjectStore

_PLAN: Final = "plan.json"

_T = TypeVar("_T")


def save_snapshot(store: ObjectStore, keys: DatasetKeys, snapshot: Snapshot, splits: NDArray[np.uint8]) -> None:
    """Record a snapshot, the checksums of its files' blocks, and the split of each of its samples.

    Raises:
        ConfigError: the snapshot's samples were split in another way before, or `splits` has another length.
        SourceError: the snapshot has no block checksums.
        CorruptDataError: what was recorded of its splits before is damaged.
    """
    if len(splits) != snapshot.rows:
        raise ConfigError(f"{len(splits)} split codes were given for a snapshot of {snapshot.rows} rows")
    blocks = snapshot.checksums()
    _save_splits(store, keys, snapshot.fingerprint, splits)
    # The same content has the same checksums: what differs is damaged, or of another version of foreshard.
    _create_or_put(store, keys.blocks(snapshot.fingerprint), blocks.encode())
    # The fingerprint leaves out where the source lies, and sources get moved.
    _create_or_put(store, keys.snapshot(snapshot.fingerprint), seal(snapshot.to_record()))


def _create_or_put(store: ObjectStore, key: str, raw: bytes) -> None:
    try:
        store.create(key, raw)
    except ObjectExistsError:
        store.put(key, raw)


def _save_splits(store: ObjectStore, keys: DatasetKeys, fingerprint: str, splits: NDArray[np.uint8]) -> None:
    key, raw = keys.splits(fingerprint), encode_splits(splits)
    try:
        store.create(key, raw)
    except ObjectExistsError as error:
        # The same codes, written without a digest or by another version of Arrow, are no other splits.
        standing = _fetched(store, key, partial(decode_splits, verify=False), "delete it, take the snapshot again")
        if not np.array_equal(standing, splits):
            raise ConfigError(
                f"the samples of snapshot {fingerprint} were split in another way before; set dataset.seed, "
                "dataset.key and dataset.splits back, or use another dataset.name: a row never changes its split"
            ) from error
        store.put(key, raw)


def load_snapshot(store: ObjectStore, keys: DatasetKeys, fingerprint: str) -> Snapshot:
    """Return a recorded snapshot; the checksums of its files' blocks are read when they are first used.

    A snapshot that was recorded without them comes back too, but nothing can be read from it.

    Raises:
        ObjectNotFoundError: none has this fingerprint.
        CorruptDataError: its record is damaged or has another fingerprint.
    """
    key = keys.snapshot(fingerprint)
    return _fetched(store, key, partial(_decode_snapshot, store, keys, fingerprint), "take the snapshot again")


def _decode_snapshot(store: ObjectStore, keys: DatasetKeys, fingerprint: str, raw: bytes) -> Snapshot:
    try:
        record = json.loads(raw)
        blocks = None
        if "sha256" in record or "blocks" in record:  # else recorded before snapshots had checksums
            record = unseal(raw, keys.snapshot(fingerprint))
            blocks = _recorded_blocks(store, keys.blocks(fingerprint), record["blocks"])
        snapshot = Snapshot.from_record(record, blocks)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptDataError(f"it is not a snapshot ({error})") from error
    if snapshot.fingerprint != fingerprint:
        raise CorruptDataError(f"it has fingerprint {snapshot.fingerprint}")
    return snapshot


def _recorded_blocks(store: ObjectStore, key: str, record: dict[str, Any]) -> BlockChecksums:
    decode = BlockChecksums.decoder(record)
    return BlockChecksums.recorded(record, lambda: _fetched(store, key, decode, "take the snapshot again"))


def load_splits(store: ObjectStore, keys: DatasetKeys, fingerprint: str) -> NDArray[np.uint8]:
    """Return the split code of every sample of a recorded snapshot, shape (n,), verified by the digest they carry.

    Raises:
        ObjectNotFoundError: no snapshot has this fingerprint.
        CorruptDataError: the object is not a column of split codes, or not the one that was written.
    """
    return _fetched(store, keys.splits(fingerprint), decode_splits, "delete it, take the snapshot again")


def _fetched(store: ObjectStore, key: str, decode: Callable[[bytes], _T], fix: str) -> _T:
    """Return what an object holds, verified by what decodes it."""
    try:
        return refetch(store, lambda: decode(store.get(key)))
    except CorruptDataError as error:
        raise CorruptDataError(f"{key!r} is damaged: {error}; {fix}") from error


def save_plan(store: ObjectStore, keys: DatasetKeys, plan: Plan) -> LayoutRef:
    """Record a plan; the first plan of a generation with the same digest stands.

    What a plan's digest leaves out (predictions, heat) may differ between attempts; that is no conflict.
    """
    text, table = plan.to_bytes()
    part = part_ref("plan", pa.py_buffer(table))
    ref = LayoutRef(plan.generation, plan.digest)
    if store.exists(keys.layout(ref.generation, ref.plan_digest, _PLAN)):
        return ref
    store.create(keys.layout(ref.generation, ref.plan_digest, part.name), table)
    try:
        store.create(
            keys.layout(ref.generation, ref.plan_digest, _PLAN), seal({"plan": json.loads(text), "table": asdict(part)})
        )
    except ObjectExistsError:
        return ref
    return ref


def load_plan(store: ObjectStore, keys: DatasetKeys, ref: LayoutRef) -> Plan:
    """Return a recorded plan.

    Raises:
        ObjectNotFoundError: there is none for this layout.
        CorruptDataError: it is damaged or is another plan.
    """
    key = keys.layout(ref.generation, ref.plan_digest, _PLAN)
    body = refetch(store, lambda: unseal(store.get(key), key))
    table = load_part(store, keys, ref, PartRef(**body["table"]))
    plan = Plan.from_bytes(json.dumps(body["plan"]).encode(), table.to_pybytes())
    if (plan.generation, plan.digest) != (ref.generation, ref.plan_digest):
        raise CorruptDataError(f"{key!r} holds plan {plan.generation}/{plan.digest}; restore it or plan again")
    return plan
