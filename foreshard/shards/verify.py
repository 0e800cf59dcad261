"""Check a committed layout against everything it claims: digests, exact cover, split purity, replayable seeds."""

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import CorruptDataError, ObjectNotFoundError
from foreshard.keys import LayoutRef
from foreshard.layout.plan import Plan
from foreshard.shards.arrange import ChunkOrder, order_chunks
from foreshard.shards.assemble import sample_index
from foreshard.shards.codec import SAMPLE_ID
from foreshard.shards.columns import binary_rows, hex_strings
from foreshard.shards.header import ShardRef
from foreshard.shards.manifest import Manifest
from foreshard.shards.metadata import prng_states
from foreshard.shards.refetch import refetch
from foreshard.splits import SPLITS
from foreshard.storage import ObjectStore

_SHOWN: Final = 100
_AT_A_TIME: Final = 2


@dataclass(frozen=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        ref: the layout.
        shards: shard objects read.
        chunks: chunks read.
        rows: rows read.
        bytes: bytes read.
        problems: each with the key or chunk and what is wrong; the first 100, then their number.
    """

    ref: LayoutRef
    shards: int
    chunks: int
    rows: int
    bytes: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True)
class Claims:
    """What a layout is checked against.

    Attributes:
        plan: the recorded plan.
        consistency: the layout's consistency metadata.
        splits: (n,) uint8, split code of every sample of the snapshot.
    """

    plan: Plan
    consistency: pa.RecordBatch
    splits: NDArray[np.uint8]


@dataclass
class _Findings:
    """Problems so far, and how often each sample was seen."""

    seen: NDArray[np.int32]
    rows: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list[str])
    more: int = 0

    def add(self, problem: str) -> None:
        if len(self.problems) < _SHOWN:
            self.problems.append(problem)
        else:
            self.more += 1

    def all(self) -> tuple[str, ...]:
        return (*self.problems, *([f"and {self.more} problems more"] if self.more else []))


def verify_layout(
    store: ObjectStore, manifest: Manifest, claims: Claims, *, progress: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Read every shard of a layout and compare it with the manifest, the metadata, the splits and the plan.

    Two shards are held in memory at a time.

    Args:
        store: holds the shards.
        manifest: the layout.
        claims: what it is checked against.
        progress: called from this thread with (checked shards, all shards).
    """
    shards = manifest.shards
    findings = _Findings(np.zeros(manifest.header.rows, np.int32))
    _check_tables(findings, manifest, claims)
    if findings.problems:  # nothing to compare the chunks with
        return VerifyReport(manifest.ref, len(shards), len(manifest), 0, 0, findings.all())
    by_shard = np.argsort(manifest.shard_of, kind="stable")
    bounds = np.searchsorted(manifest.shard_of[by_shard], np.arange(len(shards) + 1))
    with ThreadPoolExecutor(_AT_A_TIME, "foreshard-verify") as pool:
        # Read ahead, one beyond the one that is checked.
        reads = deque(pool.submit(_read, store, shard) for shard in shards[:_AT_A_TIME])
        for number in range(len(shards)):
            raw, problem = reads.popleft().result()
            if number + _AT_A_TIME < len(shards):
                reads.append(pool.submit(_read, store, shards[number + _AT_A_TIME]))
            findings.bytes += len(raw)
            if problem:
                findings.add(problem)
            if raw:
                for chunk in by_shard[bounds[number] : bounds[number + 1]].tolist():
                    _check_chunk(findings, manifest, chunk, raw, claims.splits)
            if progress:
                progress(number + 1, len(shards))
    for what, wrong in (("no chunk", findings.seen == 0), ("several chunks", findings.seen > 1)):
        if wrong.any():
            findings.add(f"{wrong.sum()} samples are in {what}, the first is {wrong.argmax()}")
    return VerifyReport(manifest.ref, len(shards), len(manifest), findings.rows, findings.bytes, findings.all())


def _read(store: ObjectStore, shard: ShardRef) -> tuple[memoryview, str | None]:
    """Return a shard's bytes, none if it is missing, and what is wrong with them."""

    def read() -> memoryview:
        raw = memoryview(store.get(shard.key))
        if hashlib.sha256(raw).hexdigest() != shard.sha256:
            raise CorruptDataError(f"shard {shard.key!r} does not match its SHA-256; delete it and materialise again")
        return raw

    try:
        return refetch(store, read), None
    except ObjectNotFoundError:
        return memoryview(b""), f"shard {shard.key!r} is missing; materialise this layout's plan again"
    except CorruptDataError as error:  # its chunks tell what the damage costs
        return memoryview(store.get(shard.key)), str(error)


def _check_tables(findings: _Findings, manifest: Manifest, claims: Claims) -> None:
    consistency, splits, plan = claims.consistency, claims.splits, claims.plan
    if int(manifest.rows.sum()) != manifest.header.rows:
        findings.add(f"the chunks hold {manifest.rows.sum()} rows, the header says {manifest.header.rows}")
    if len(splits) != manifest.header.rows:
        findings.add(f"the snapshot has {len(splits)} samples, the layout {manifest.header.rows}")
    if not np.array_equal(plan.chunk_of(), manifest.chunk_of):
        findings.add("the sample index differs from the recorded plan")
    if consistency.num_rows != len(manifest):
        findings.add(f"the consistency metadata has {consistency.num_rows} chunks, the manifest {len(manifest)}")
    elif not consistency.column("seed").equals(hex_strings(manifest.seeds)):
        findings.add("the consistency metadata record other seeds than the manifest")
    elif not consistency.column("prng_state").equals(prng_states(manifest.seeds, manifest.rows)):
        findings.add("the consistency metadata record PRNG states that do not follow from the seeds")
    if not findings.problems:
        _replay(findings, manifest, consistency, order_chunks(plan))


def _replay(findings: _Findings, manifest: Manifest, consistency: pa.RecordBatch, chunks: ChunkOrder) -> None:
    """Derive seeds and orders anew from the plan, as a rebuild would."""
    seeds = (chunks.seeds[chunks.place] != manifest.seeds).any(axis=1)
    recorded = (chunks.orders() != binary_rows(consistency.column("order_sha256"))).any(axis=1)
    _, row_of = sample_index(chunks)
    ordered = np.zeros(len(manifest), np.bool_)
    ordered[manifest.chunk_of[row_of != manifest.row_of]] = True
    for wrong, what in (
        (seeds, "has a seed that does not follow from its content"),
        (recorded & ~seeds, "is not in the order that its consistency metadata records"),
        (ordered & ~seeds & ~recorded, "is not indexed in the order that its seed gives"),
    ):
        for chunk in np.flatnonzero(wrong).tolist():
            findings.add(f"chunk {chunk} of shard {manifest.shard_key(chunk)!r} {what}")


def _check_chunk(
    findings: _Findings, manifest: Manifest, chunk: int, shard: memoryview, splits: NDArray[np.uint8]
) -> None:
    where = f"chunk {chunk} of shard {manifest.shard_key(chunk)!r}"
    try:
        batch = manifest.decode(chunk, shard[manifest.starts[chunk] : manifest.ends[chunk]])
        batch.validate(full=True)
    except (CorruptDataError, pa.ArrowInvalid) as error:
        findings.add(str(error))
        return
    ids = np.asarray(batch.column(SAMPLE_ID).to_numpy(), np.int64)
    findings.rows += len(ids)
    if ids.min() < 0 or ids.max() >= manifest.header.rows:
        findings.add(f"{where} holds sample ids outside 0..{manifest.header.rows - 1}")
        return
    np.add.at(findings.seen, ids, 1)
    if (manifest.chunk_of[ids] != chunk).any() or (manifest.row_of[ids] != np.arange(len(ids))).any():
        findings.add(f"{where} holds samples that the index places elsewhere")
    if (splits[ids] != manifest.splits[chunk]).any():
        findings.add(f"{where} is of split {SPLITS[manifest.splits[chunk]]!r} and holds samples of another")
