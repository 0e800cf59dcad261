"""What a dataset's layouts are made from: snapshots, splits and plans, recorded create-only."""

import json
from dataclasses import asdict
from typing import Final

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
from foreshard.source import Snapshot
from foreshard.splits import decode_splits, encode_splits
from foreshard.storage import ObjectStore

_PLAN: Final = "plan.json"


def save_snapshot(store: ObjectStore, keys: DatasetKeys, snapshot: Snapshot, splits: NDArray[np.uint8]) -> None:
    """Record a snapshot and the split of each of its samples.

    Raises:
        ConfigError: the snapshot's samples were split in another way before, or `splits` has another length.
    """
    if len(splits) != snapshot.rows:
        raise ConfigError(f"{len(splits)} split codes were given for a snapshot of {snapshot.rows} rows")
    try:
        store.create(keys.splits(snapshot.fingerprint), encode_splits(splits))
    except ObjectExistsError as error:
        raise ConfigError(
            f"the samples of snapshot {snapshot.fingerprint} were split in another way before; set dataset.seed, "
            "dataset.key and dataset.splits back, or use another dataset.name: a row never changes its split"
        ) from error
    try:
        store.create(keys.snapshot(snapshot.fingerprint), snapshot.to_json().encode())
    except ObjectExistsError:
        # Same content at another URL: the fingerprint leaves out where the source lies, and sources get moved.
        store.put(keys.snapshot(snapshot.fingerprint), snapshot.to_json().encode())


def load_snapshot(store: ObjectStore, keys: DatasetKeys, fingerprint: str) -> Snapshot:
    """Return a recorded snapshot.

    Raises:
        ObjectNotFoundError: none has this fingerprint.
        CorruptDataError: its record does not have this fingerprint any more.
    """
    key = keys.snapshot(fingerprint)
    try:
        snapshot = Snapshot.from_json(store.get(key))
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptDataError(f"{key!r} is not a snapshot ({error}); take the snapshot again") from error
    if snapshot.fingerprint != fingerprint:
        raise CorruptDataError(f"{key!r} has fingerprint {snapshot.fingerprint}; take the snapshot again")
    return snapshot


def load_splits(store: ObjectStore, keys: DatasetKeys, fingerprint: str) -> NDArray[np.uint8]:
    """Return the split code of every sample of a recorded snapshot, shape (n,).

    Raises:
        ObjectNotFoundError: no snapshot has this fingerprint.
        CorruptDataError: the object is not a column of split codes.
    """
    key = keys.splits(fingerprint)
    try:
        return decode_splits(store.get(key))
    except (pa.ArrowInvalid, KeyError) as error:
        raise CorruptDataError(f"{key!r} holds no splits ({error}); delete it, take the snapshot again") from error


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
