"""A plan: which sample lies in which chunk, which chunk in which shard, which shard on which node, and why."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import CorruptDataError
from foreshard.keys import LayoutRef
from foreshard.layout.inherited import INHERITED_ARRAYS, Inherited
from foreshard.seeding import Origin, derive_seed

PLAN_SCHEMA: Final = pa.schema(
    [
        ("chunk", pa.int32()),
        ("split", pa.uint8()),
        ("group", pa.int32()),
        ("node", pa.int32()),
        ("shard", pa.int32()),
        ("rows", pa.int32()),
        ("heat", pa.float64()),
        ("content_id", pa.binary(16)),
    ]
)
"""One row per chunk, in chunk order."""

Decision = Literal["bootstrap", "reshard", "keep"]

_FORMAT: Final = 2
_PERSON: Final = b"foreshard.chunk1"


def chunk_content_ids(sample_ids: NDArray[np.int64], offsets: NDArray[np.int64]) -> list[bytes]:
    """Return the name of each chunk's content: BLAKE2b-128 of its sample ids in ascending order (int64, LE).

    Args:
        sample_ids: shape (m,), chunk after chunk, in any order inside a chunk.
        offsets: shape (C + 1,), where chunks begin and end.
    """
    raw = memoryview(sort_inside_chunks(sample_ids, offsets).astype("<i8").tobytes())
    bounds = (offsets * 8).tolist()
    return [
        hashlib.blake2b(raw[start:stop], digest_size=16, person=_PERSON).digest() for start, stop in pairwise(bounds)
    ]


def sort_inside_chunks(sample_ids: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the ids with each chunk's ids ascending; chunks stay where they are."""
    chunk = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return sample_ids[np.lexsort((sample_ids, chunk))]


def slots_in_turn(shard: NDArray[np.generic]) -> NDArray[np.int32]:
    """Return the position of every chunk in its shard where chunks lie in chunk order, shape (C,)."""
    order = np.argsort(shard, kind="stable")
    counts = np.bincount(shard.astype(np.int64)) if len(shard) else np.zeros(0, np.int64)
    slot = np.empty(len(shard), np.int32)
    slot[order] = np.arange(len(shard)) - np.repeat(np.cumsum(counts) - counts, counts)
    return slot


def _values(lists: Any) -> Any:  # noqa: ANN401 - pyarrow's stubs know no values of a column of lists
    return lists.values


@dataclass(frozen=True, eq=False)
class Plan:
    """A layout, before any byte moves.

    Attributes:
        generation: key of the generation it is planned for.
        fingerprint: snapshot it covers.
        strategy: how training rows were arranged.
        root_seed: root of every seed.
        nodes: node names; `node` in `chunks` is a position here.
        parent: the layout it replaces, if any.
        decision: "bootstrap" without a parent, "reshard", or "keep" where the parent's layout stays.
        reason: the decision in words, with figures.
        predicted: figures per epoch, before and after; seconds, bytes, requests, rows, scores.
        chunks: `PLAN_SCHEMA`.
        sample_ids: shape (n,), int64; chunk after chunk, ascending inside a chunk.
        inherited: the shards it takes over from its parent; they come first, the others are written anew.
        compression: of the shards written anew: "none", "lz4" or "zstd".
    """

    generation: str
    fingerprint: str
    strategy: str
    root_seed: int
    nodes: tuple[str, ...]
    parent: LayoutRef | None
    decision: Decision
    reason: str
    predicted: dict[str, float]
    chunks: pa.Table
    sample_ids: NDArray[np.int64]
    inherited: Inherited = field(default_factory=Inherited)
    compression: str = "none"

    @property
    def ref(self) -> LayoutRef:
        """The name of the layout that is made from it."""
        return LayoutRef(self.generation, self.digest)

    @property
    def origin(self) -> Origin:
        """What the bytes of the shards written anew follow from."""
        return Origin(self.fingerprint, self.strategy, self.root_seed, self.compression)

    @cached_property
    def slot(self) -> NDArray[np.int32]:
        """Position of every chunk in its shard, shape (C,)."""
        return self.inherited.slot if self.inherited.shards else slots_in_turn(self.column("shard"))

    def column(self, name: str) -> NDArray[np.generic]:
        """Return a numeric column of `chunks` as an array of shape (C,)."""
        return self.chunks.column(name).to_numpy()

    def content_bytes(self) -> NDArray[np.uint8]:
        """Return the chunks' content ids as an array of shape (C, 16)."""
        names: Any = self.chunks.column("content_id").combine_chunks()
        raw = np.frombuffer(names.buffers()[1] or b"", np.uint8)
        return raw[16 * names.offset : 16 * (names.offset + len(names))].reshape(-1, 16)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where chunks begin and end in `sample_ids`, shape (C + 1,)."""
        return np.concatenate([[0], np.cumsum(self.column("rows"), dtype=np.int64)]).astype(np.int64)

    @cached_property
    def digest(self) -> str:
        """32 hex digits of all that determines bytes.

        These are the snapshot, strategy, root seed, compression and algorithm version, each chunk's samples, split,
        node and shard, and what is inherited; not predictions, the generation, the parent or names of nodes.
        """
        parts = {name: self.column(name) for name in ("split", "node", "shard", "rows")}
        parts |= {"samples": self.sample_ids, **self.inherited.arrays()}
        return derive_seed(
            purpose="plan",
            fingerprint=self.fingerprint,
            strategy=self.strategy,
            root=self.root_seed,
            compression=self.compression,
            origins=json.dumps([asdict(origin) for origin in self.inherited.origins], sort_keys=True),
            **{name: hashlib.sha256(values.astype("<i8").tobytes()).digest() for name, values in parts.items()},
        ).hex()

    def chunk_of(self) -> NDArray[np.int32]:
        """Return the chunk of every sample id, shape (n,)."""
        found = np.empty(len(self.sample_ids), np.int32)
        found[self.sample_ids] = np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int32), np.diff(self.offsets))
        return found

    def to_bytes(self) -> tuple[bytes, bytes]:
        """Return the plan as JSON (what and why) and an Arrow IPC file (chunks and samples).

        The Arrow file has one row of lists, one list per column of `chunks` and one of sample ids, so that it opens
        without copying or parsing.
        """
        head = {
            "format": _FORMAT,
            "generation": self.generation,
            "fingerprint": self.fingerprint,
            "strategy": self.strategy,
            "root_seed": self.root_seed,
            "nodes": list(self.nodes),
            "parent": self.parent and asdict(self.parent),
            "decision": self.decision,
            "reason": self.reason,
            "predicted": self.predicted,
            "compression": self.compression,
            "origins": [asdict(origin) for origin in self.inherited.origins],
            "digest": self.digest,
        }
        arrays = {name: self.chunks.column(name).combine_chunks() for name in PLAN_SCHEMA.names}
        arrays |= {name: pa.array(values) for name, values in self.inherited.arrays().items()}
        arrays["sample_ids"] = pa.array(self.sample_ids)
        lists = {
            name: pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), values)
            for name, values in arrays.items()
        }
        batch = pa.record_batch(lists)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return json.dumps(head, indent=1, sort_keys=True).encode(), sink.getvalue().to_pybytes()

    @classmethod
    def from_bytes(cls, head: bytes, body: bytes) -> "Plan":
        """Rebuild a plan from `to_bytes`'s output.

        Raises:
            CorruptDataError: the bytes are not a plan, or not the plan that their digest names.
        """
        try:
            raw = json.loads(head)
            if raw["format"] != _FORMAT:
                raise CorruptDataError(f"the plan has format {raw['format']!r}, this foreshard reads {_FORMAT}")
            batch = pa.ipc.open_file(pa.BufferReader(body)).get_batch(0)
            lists: dict[str, Any] = {name: _values(batch.column(name)) for name in batch.schema.names}
            samples = np.asarray(lists.pop("sample_ids").to_numpy(), np.int64)
            taken_over = {name: lists.pop(name).to_numpy() for name in INHERITED_ARRAYS}
            plan = cls(
                generation=raw["generation"],
                fingerprint=raw["fingerprint"],
                strategy=raw["strategy"],
                root_seed=raw["root_seed"],
                nodes=tuple(raw["nodes"]),
                parent=raw["parent"] and LayoutRef(**raw["parent"]),
                decision=raw["decision"],
                reason=raw["reason"],
                predicted=raw["predicted"],
                chunks=pa.table(lists, schema=PLAN_SCHEMA),
                sample_ids=samples,
                inherited=Inherited.from_arrays([Origin(**origin) for origin in raw["origins"]], taken_over),
                compression=raw["compression"],
            )
        except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise CorruptDataError(f"these bytes are not a plan: {error}; plan the generation again") from error
        if plan.digest != raw["digest"]:
            raise CorruptDataError(f"plan {raw['digest']} has the content of {plan.digest}; plan the generation again")
        return plan
