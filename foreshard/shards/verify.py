"""Check a committed layout against everything it claims: digests, exact cover, split purity, replayable seeds."""

import hashlib
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import CorruptDataError, ObjectNotFoundError
from foreshard.layout.plan import chunk_content_ids
from foreshard.shards.codec import SAMPLE_ID
from foreshard.shards.columns import binary_rows, hex_strings
from foreshard.shards.manifest import LayoutRef, Manifest
from foreshard.shards.metadata import generate_seed, order_digest, prng_states, shuffle_rows
from foreshard.splits import SPLITS
from foreshard.storage import ObjectStore

_SHOWN: Final = 100


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
    store: ObjectStore,
    manifest: Manifest,
    consistency: pa.RecordBatch,
    splits: NDArray[np.uint8],
    planned: NDArray[np.int32],
) -> VerifyReport:
    """Read every shard of a layout and compare it with the manifest, the metadata, the splits and the plan.

    One shard is held in memory at a time.

    Args:
        store: holds the shards.
        manifest: the layout.
        consistency: its consistency metadata.
        splits: (n,) split code of every sample of the snapshot.
        planned: (n,) chunk of every sample according to the recorded plan.
    """
    header = manifest.header
    findings = _Findings(np.zeros(header.rows, np.int32))
    _check_tables(findings, manifest, consistency, splits, planned)
    if findings.problems:  # nothing to compare the chunks with
        return VerifyReport(manifest.ref, len(header.shards), len(manifest), 0, 0, findings.all())
    orders = binary_rows(consistency.column("order_sha256"))
    by_shard = np.argsort(manifest.shard_of, kind="stable")
    bounds = np.searchsorted(manifest.shard_of[by_shard], np.arange(len(header.shards) + 1))
    for number, shard in enumerate(header.shards):
        try:
            raw = memoryview(store.get(shard.key))
        except ObjectNotFoundError:
            findings.add(f"shard {shard.key!r} is missing; materialise plan {header.plan_digest} again")
            continue
        findings.bytes += len(raw)
        if hashlib.sha256(raw).hexdigest() != shard.sha256:
            findings.add(f"shard {shard.key!r} does not match its SHA-256; delete it and materialise again")
        for chunk in by_shard[bounds[number] : bounds[number + 1]].tolist():
            _check_chunk(findings, manifest, chunk, raw, orders[chunk].tobytes(), splits)
    for what, wrong in (("no chunk", findings.seen == 0), ("several chunks", findings.seen > 1)):
        if wrong.any():
            findings.add(f"{wrong.sum()} samples are in {what}, the first is {wrong.argmax()}")
    return VerifyReport(manifest.ref, len(header.shards), len(manifest), findings.rows, findings.bytes, findings.all())


def _check_tables(
    findings: _Findings,
    manifest: Manifest,
    consistency: pa.RecordBatch,
    splits: NDArray[np.uint8],
    planned: NDArray[np.int32],
) -> None:
    if int(manifest.rows.sum()) != manifest.header.rows:
        findings.add(f"the chunks hold {manifest.rows.sum()} rows, the header says {manifest.header.rows}")
    if len(splits) != manifest.header.rows:
        findings.add(f"the snapshot has {len(splits)} samples, the layout {manifest.header.rows}")
    if not np.array_equal(planned, manifest.chunk_of):
        findings.add("the sample index differs from the recorded plan")
    if consistency.num_rows != len(manifest):
        findings.add(f"the consistency metadata has {consistency.num_rows} chunks, the manifest {len(manifest)}")
    elif not consistency.column("seed").equals(hex_strings(manifest.seeds)):
        findings.add("the consistency metadata record other seeds than the manifest")
    elif not consistency.column("prng_state").equals(prng_states(manifest.seeds, manifest.rows)):
        findings.add("the consistency metadata record PRNG states that do not follow from the seeds")


def _check_chunk(
    findings: _Findings,
    manifest: Manifest,
    chunk: int,
    shard: memoryview,
    order: bytes,
    splits: NDArray[np.uint8],
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
    if order_digest(ids) != order:
        findings.add(f"{where} is not in the order that its consistency metadata records")
    _replay(findings, manifest, chunk, ids, where)


def _replay(findings: _Findings, manifest: Manifest, chunk: int, ids: NDArray[np.int64], where: str) -> None:
    """Derive seed and order anew from the chunk's content, as a rebuild would."""
    header = manifest.header
    ascending = np.sort(ids)
    seed = generate_seed(
        bytes(chunk_content_ids(ascending, np.array([0, len(ids)]))[0]),
        fingerprint=header.fingerprint,
        strategy=header.strategy,
        root_seed=header.root_seed,
    )
    if seed != manifest.seeds[chunk].tobytes():
        findings.add(f"{where} has a seed that does not follow from its content")
    elif not np.array_equal(shuffle_rows(ascending, seed), ids):
        findings.add(f"{where} is not in the order that its seed gives")
