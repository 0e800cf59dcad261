"""What the tests of shards share: small real sources, plans built directly, and a store that stops at a write."""

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import LocalStore

from foreshard.keys import LayoutRef
from foreshard.layout.plan import Plan, chunk_content_ids, sort_inside_chunks
from foreshard.layout.reuse import pack_onto
from foreshard.shards.pieces import Pieces
from foreshard.shards.repository import Repository
from foreshard.source import Snapshot, SourceReader, take_snapshot
from foreshard.splits import assign_splits
from foreshard.storage import ObjectStore

SPLIT_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def take_chunks(rows: pa.Table | pa.RecordBatch, positions: np.ndarray, offsets: np.ndarray) -> list[pa.RecordBatch]:
    """Take chunks out of rows as the materialiser does."""
    pieces = Pieces(rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows]))
    return [pieces.take(positions[start:end]) for start, end in pairwise(offsets.tolist())]


def sample_table(rows: int) -> pa.Table:
    """Return a table whose values follow from the row number, with nulls in some columns."""
    ids = np.arange(rows)
    return pa.table(
        {
            "number": pa.array(ids * 0.5, mask=ids % 7 == 3),
            "label": pa.array(ids % 3, pa.int32()),
            "name": pa.array([None if i % 11 == 5 else f"row {i}" for i in range(rows)], pa.string()),
        }
    )


def write_source(folder: Path, table: pa.Table, *, files: int = 1, row_group: int = 64) -> Snapshot:
    """Write a table as Parquet files and take a snapshot of them."""
    folder.mkdir(parents=True)
    edges = np.linspace(0, table.num_rows, files + 1).astype(int)
    for number in range(files):
        part = table.slice(edges[number], edges[number + 1] - edges[number])
        pq.write_table(part, folder / f"part-{number:03d}.parquet", row_group_size=row_group)
    return take_snapshot(folder.as_uri())


def splits_of(snapshot: Snapshot) -> np.ndarray:
    return assign_splits(np.arange(snapshot.rows), SPLIT_SHARES, seed=0)


def build_plan(
    snapshot: Snapshot,
    *,
    generation: str = "demo.e000000",
    nodes: int = 2,
    chunk_rows: int = 10,
    shard_chunks: int = 4,
    order_seed: int = 0,
    parent: LayoutRef | None = None,
) -> Plan:
    """Return a plan of shuffled samples in chunks of one size per split, dealt to nodes in turn."""
    splits = splits_of(snapshot)
    order = np.random.default_rng(order_seed).permutation(snapshot.rows)
    pieces, codes = [], []
    for code in range(3):
        members = order[splits[order] == code]
        for start in range(0, len(members), chunk_rows):
            pieces.append(np.sort(members[start : start + chunk_rows]))
            codes.append(code)
    count = len(pieces)
    split = np.array(codes, np.uint8)
    node = (np.arange(count) % nodes).astype(np.int32)
    # Chunks of one (node, split) fill shards in turn; shard numbers are deliberately not in chunk order.
    shard = np.empty(count, np.int32)
    next_shard = 0
    for key in sorted({(int(n), int(s)) for n, s in zip(node, split, strict=True)}, reverse=True):
        members = np.flatnonzero((node == key[0]) & (split == key[1]))
        shard[members] = next_shard + np.arange(len(members)) // shard_chunks
        next_shard = int(shard[members].max()) + 1
    rows = np.array([len(piece) for piece in pieces], np.int32)
    sample_ids = np.concatenate(pieces).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    content = [bytes(value) for value in chunk_content_ids(sample_ids, offsets)]
    chunks = pa.table(
        {
            "chunk": pa.array(np.arange(count, dtype=np.int32)),
            "split": pa.array(split),
            "group": pa.array(np.zeros(count, np.int32)),
            "node": pa.array(node),
            "shard": pa.array(shard),
            "rows": pa.array(rows),
            "heat": pa.array(rows.astype(np.float64)),
            "content_id": pa.array(content, pa.binary(16)),
        }
    )
    return Plan(
        generation=generation,
        fingerprint=snapshot.fingerprint,
        strategy="seeded_shuffle",
        root_seed=7,
        nodes=tuple(f"node-{n}" for n in range(nodes)),
        parent=parent,
        decision="bootstrap",
        reason="test",
        predicted={},
        chunks=chunks,
        sample_ids=sample_ids,
    )


def successor(plan: Plan, generation: str, *, share: float, seed: int = 0, **changes: Any) -> Plan:
    """Return a plan in which a share of the training chunks exchange samples; unchanged ones stay in their shards."""
    rng = np.random.default_rng(seed)
    train = np.flatnonzero(plan.column("split") == 0)
    chosen = rng.choice(train, max(2, int(share * len(train))), replace=False)
    ids = plan.sample_ids.copy()
    at = plan.offsets[chosen]
    ids[at] = ids[np.roll(at, 1)]
    ids = sort_inside_chunks(ids, plan.offsets)
    names = chunk_content_ids(ids, plan.offsets)
    nbytes = plan.column("rows").astype(np.float64)
    split, node = plan.column("split"), plan.column("node")
    shard, inherited = pack_onto(plan, node, split, nbytes, names, int(nbytes.sum() / 12))
    chunks = plan.chunks
    for name, values in (("shard", pa.array(shard)), ("content_id", pa.array(names, pa.binary(16)))):
        chunks = chunks.set_column(chunks.schema.get_field_index(name), name, values)
    return replace(
        plan,
        generation=generation,
        parent=plan.ref,
        decision="reshard",
        chunks=chunks,
        sample_ids=ids,
        inherited=inherited,
        **changes,
    )


@dataclass
class World:
    """A source, a store on a local directory and a repository in it."""

    folder: Path
    snapshot: Snapshot
    store: ObjectStore
    repository: Repository = field(init=False)

    def __post_init__(self) -> None:
        self.repository = Repository(self.store, "data")
        self.repository.save_snapshot(self.snapshot, splits_of(self.snapshot))

    def reader(self) -> SourceReader:
        return SourceReader(self.snapshot)

    def make(self, plan: Plan) -> LayoutRef:
        """Materialise and commit a plan."""
        return self.repository.commit(self.repository.materialize(plan, self.reader()).manifest)

    def path(self, key: str) -> Path:
        """Return the file that holds an object, to damage it."""
        return self.folder / "store" / key

    def objects(self) -> dict[str, bytes]:
        return {meta.key: self.store.get(meta.key) for meta in self.store.list("data")}


def make_world(folder: Path, rows: int = 300, table: pa.Table | None = None) -> World:
    snapshot = write_source(folder / "source", sample_table(rows) if table is None else table)
    return World(folder, snapshot, ObjectStore.open((folder / "store").as_uri()))


def flip_byte(path: Path, position: int) -> None:
    """Change one byte of a file."""
    raw = bytearray(path.read_bytes())
    raw[position] ^= 0x10
    path.write_bytes(raw)


class StopError(Exception):
    """Stands for a crash."""


class StoppingStore(ObjectStore):
    """A real store on a local directory that stops before or after its n-th write, and at every write from then on.

    Args:
        folder: the store's directory.
        stop_at: number of the first write that stops, from 0; -1 for none.
        lose_answer: whether that write still happens, so that only its answer is lost.

    Attributes:
        attempts: how many writes were tried.
        writes: keys that a write changed, in order.
    """

    def __init__(self, folder: Path, *, stop_at: int = -1, lose_answer: bool = False) -> None:
        super().__init__(folder.as_uri(), LocalStore(folder, mkdir=True))
        self.stop_at = stop_at
        self.lose_answer = lose_answer
        self.attempts = 0
        self.writes: list[str] = []
        self._counting = Lock()

    def _step(self, key: str, write):
        with self._counting:
            number, self.attempts = self.attempts, self.attempts + 1
        stop = 0 <= self.stop_at <= number
        if stop and not (self.lose_answer and number == self.stop_at):
            raise StopError(key)
        if write() is not False:
            self.writes.append(key)
            changed = True
        else:
            changed = False
        if stop:
            raise StopError(key)
        return changed

    def create(self, key, data):
        return self._step(key, partial(super().create, key, data))

    def swap(self, key, data, expected):
        self._step(key, partial(super().swap, key, data, expected))

    def put(self, key, data):
        if key.endswith("/current.json"):  # the second half of a local `swap`, which is one step
            super().put(key, data)
        else:
            self._step(key, partial(super().put, key, data))
