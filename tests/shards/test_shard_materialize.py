"""Shard bytes follow from snapshot, plan and algorithm version alone; rows in = rows out."""

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shardkit import World, build_plan, make_world, sample_table, splits_of, write_source

from foreshard.errors import PlanError, SourceError
from foreshard.layout.plan import Plan, chunk_content_ids
from foreshard.shards.assemble import Figures
from foreshard.shards.materialize import Execution, materialize
from foreshard.shards.metadata import order_digest, shuffle_rows
from foreshard.shards.repository import Repository
from foreshard.source import Snapshot, SourceReader
from foreshard.storage import ObjectStore

GOLDEN = "1e952ed7d7eb23f7c4bc2280c405c0984f1f11cb2209ef0c8b2582075f9cc1f0"


def pinned(snapshot: Snapshot) -> Snapshot:
    """Give a snapshot a fixed fingerprint: a real one holds digests of Parquet files, which name their writer."""
    vars(snapshot)["fingerprint"] = "f" * 32
    return snapshot


def shard_digests(folder: Path, snapshot: Snapshot, plan: Plan, **options) -> list[str]:
    store = ObjectStore.open(folder.as_uri())
    made = materialize(store, Repository(store, "data").keys, plan, SourceReader(snapshot), **options)
    assert [hashlib.sha256(store.get(s.key)).hexdigest() for s in made.manifest.shards] == [
        s.sha256 for s in made.manifest.shards
    ]
    return [shard.sha256 for shard in made.manifest.shards]


def test_golden_digest_of_a_layout(tmp_path):
    """Pins seeds, shuffle, content ids, packing and codec at once."""
    snapshot = pinned(write_source(tmp_path / "source", sample_table(120)))
    digests = shard_digests(tmp_path / "store", snapshot, build_plan_fixed(snapshot))
    assert hashlib.sha256("".join(digests).encode()).hexdigest() == GOLDEN


def build_plan_fixed(snapshot: Snapshot) -> Plan:
    """Return a plan whose membership is written down, not drawn from numpy's generators."""
    plan = build_plan(snapshot, chunk_rows=8)
    splits = splits_of(snapshot)
    ids = np.arange(snapshot.rows) * 37 % snapshot.rows
    packed = np.concatenate([ids[splits[ids] == code] for code in range(3)]).astype(np.int64)
    return with_samples(plan, packed)


def with_samples(plan: Plan, packed: np.ndarray) -> Plan:
    """Return the plan with other samples in its chunks."""
    offsets = np.concatenate([[0], np.cumsum(plan.chunks["rows"].to_numpy())]).astype(np.int64)
    packed = np.concatenate([np.sort(piece) for piece in np.split(packed, offsets[1:-1])])
    content = pa.array([bytes(value) for value in chunk_content_ids(packed, offsets)], pa.binary(16))
    chunks = plan.chunks.set_column(plan.chunks.schema.get_field_index("content_id"), "content_id", content)
    return replace(plan, chunks=chunks, sample_ids=packed)


def test_bytes_do_not_depend_on_batches_row_groups_or_files(tmp_path):
    table = sample_table(200)
    plan, digests = None, []
    for number, (files, row_group, group_bytes) in enumerate([(1, 1000, 2**30), (3, 7, 1), (2, 64, 3000)]):
        snapshot = pinned(write_source(tmp_path / f"source{number}", table, files=files, row_group=row_group))
        plan = plan or build_plan(snapshot)
        digests.append(
            shard_digests(tmp_path / f"store{number}", snapshot, plan, execution=Execution(group_bytes=group_bytes))
        )
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests[0])) == len(digests[0])


def test_bytes_change_with_the_root_seed_and_the_strategy(tmp_path):
    snapshot = write_source(tmp_path / "source", sample_table(100))
    plan = build_plan(snapshot)
    base = shard_digests(tmp_path / "a", snapshot, plan)
    assert not set(base) & set(shard_digests(tmp_path / "b", snapshot, replace(plan, root_seed=8)))
    assert not set(base) & set(shard_digests(tmp_path / "c", snapshot, replace(plan, strategy="hash")))
    renamed = replace(plan, nodes=("x", "y"), generation="other.e000009")
    assert base == shard_digests(tmp_path / "d", snapshot, renamed)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(30, 150),
    nodes=st.integers(1, 5),
    chunk_rows=st.integers(1, 40),
    shard_chunks=st.integers(1, 6),
    files=st.integers(1, 3),
    row_group=st.integers(1, 60),
)
def test_rows_in_are_rows_out_for_any_plan(rows, nodes, chunk_rows, shard_chunks, files, row_group):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = sample_table(rows)
        snapshot = write_source(folder / "source", table, files=files, row_group=row_group)
        world = World(folder, snapshot, ObjectStore.open((folder / "store").as_uri()))
        plan = build_plan(snapshot, nodes=nodes, chunk_rows=chunk_rows, shard_chunks=shard_chunks)
        ref = world.make(plan)
        manifest = world.repository.open(ref)
        out = pa.Table.from_batches(world.repository.read_chunks(manifest, np.arange(len(manifest))))
        assert out.sort_by("sample_id").drop_columns("sample_id").equals(table)
        assert out.sort_by("sample_id")["sample_id"].to_pylist() == list(range(rows))
        report = world.repository.verify(ref)
        assert report.ok, report.problems
        assert report.rows == rows


def test_every_kind_of_column_survives(tmp_path):
    rows = 60
    ids = range(rows)
    table = pa.table(
        {
            "flag": pa.array([i % 2 == 0 if i % 5 else None for i in ids]),
            "text": pa.array([None if i % 4 == 0 else "ß" * (i % 3) for i in ids], pa.large_string()),
            "raw": pa.array([bytes([i]) * (i % 4) for i in ids], pa.binary()),
            "items": pa.array([None if i % 6 == 0 else list(range(i % 3)) for i in ids], pa.list_(pa.int16())),
            "deep": pa.array([{"a": i, "b": [{"c": str(i)}]} if i % 7 else None for i in ids]),
            "map": pa.array([[("k", i)] for i in ids], pa.map_(pa.string(), pa.int64())),
            "price": pa.array(list(ids), pa.decimal128(9, 3)),
            "when": pa.array([i * 10**9 if i % 3 else None for i in ids], pa.timestamp("ns", "Europe/Berlin")),
            "day": pa.array(ids, pa.date32()),
            "nothing": pa.nulls(rows),
            "code": pa.array([f"c{i % 3}" if i % 8 else None for i in ids]).dictionary_encode(),
        }
    )
    world = make_world(tmp_path, table=table)
    manifest = world.repository.open(world.make(build_plan(world.snapshot)))
    out = pa.Table.from_batches(world.repository.read_chunks(manifest, range(len(manifest)))).sort_by("sample_id")
    for name in table.column_names:
        assert out.schema.field(name).type == table[name].type, name
        assert out[name].to_pylist() == table[name].to_pylist(), name


def test_rows_of_a_chunk_are_in_the_order_its_seed_gives(tmp_path):
    world = make_world(tmp_path)
    plan = build_plan(world.snapshot)
    ref = world.make(plan)
    manifest = world.repository.open(ref)
    metadata = world.repository.consistency(ref)
    offsets = np.concatenate([[0], np.cumsum(manifest.rows)])
    shuffled = 0
    for chunk, batch in enumerate(world.repository.read_chunks(manifest, range(len(manifest)))):
        ids = batch["sample_id"].to_numpy()
        ascending = plan.sample_ids[offsets[chunk] : offsets[chunk + 1]]
        seed = bytes.fromhex(metadata["seed"][chunk].as_py())
        assert seed == manifest.seeds[chunk].tobytes()
        assert ids.tolist() == shuffle_rows(ascending, seed).tolist()
        assert metadata["order_sha256"][chunk].as_py() == order_digest(ids)
        shuffled += ids.tolist() != ascending.tolist()
    assert shuffled > len(manifest) // 2
    about = {key.decode(): value.decode() for key, value in (metadata.schema.metadata or {}).items()}
    assert about["plan_digest"] == plan.digest
    assert about["fingerprint"] == world.snapshot.fingerprint
    assert about["strategy"] == "seeded_shuffle"


def test_a_second_generation_writes_only_the_shards_that_changed(tmp_path):
    world = make_world(tmp_path)
    first = build_plan(world.snapshot)
    made = world.repository.materialize(first, world.reader())
    world.repository.commit(made.manifest)
    swapped = first.sample_ids.copy()
    swapped[[0, 10]] = swapped[[10, 0]]  # chunks 0 and 1, on different nodes
    second = replace(with_samples(first, swapped), generation="demo.e000004")
    again = world.repository.materialize(second, world.reader())
    assert (made.reused_shards, made.written_shards) == (0, len(made.manifest.shards))
    assert again.written_shards == 2
    assert again.reused_shards == len(made.manifest.shards) - 2
    new = {shard.key: shard.size for shard in again.manifest.shards}
    old = {shard.key for shard in made.manifest.shards}
    assert again.written_bytes == sum(size for key, size in new.items() if key not in old)
    assert again.reused_bytes == sum(new.values()) - again.written_bytes


def test_progress_counts_shards_up_to_all_of_them(tmp_path):
    world = make_world(tmp_path)
    steps: list[tuple[int, int]] = []
    made = world.repository.materialize(
        build_plan(world.snapshot), world.reader(), progress=lambda done, total: steps.append((done, total))
    )
    count = len(made.manifest.shards)
    assert steps == [(done, count) for done in range(1, count + 1)]


def test_counts_and_scores_reach_the_manifest(tmp_path):
    world = make_world(tmp_path)
    plan = build_plan(world.snapshot)
    count = plan.chunks.num_rows
    counts, scores = np.arange(count) * 1.5, np.linspace(0, 1, count).astype(np.float32)
    made = world.repository.materialize(plan, world.reader(), figures=Figures(counts, scores))
    manifest = world.repository.open(world.repository.commit(made.manifest))
    assert manifest.access_counts.tolist() == counts.tolist()
    assert manifest.scores.tolist() == scores.tolist()
    with pytest.raises(PlanError, match=f"scores have the shape .* each of the plan's {count} chunks"):
        world.repository.materialize(plan, world.reader(), figures=Figures(scores=scores[1:]))


def test_plans_that_do_not_fit_the_snapshot_are_refused(tmp_path):
    world = make_world(tmp_path)
    plan = build_plan(world.snapshot)
    keys, reader = world.repository.keys, world.reader()

    def run(bad: Plan):
        return materialize(world.store, keys, bad, reader)

    with pytest.raises(PlanError, match=r"is for snapshot 0{32}, the reader has"):
        run(replace(plan, fingerprint="0" * 32))
    twice = plan.sample_ids.copy()
    twice[0] = twice[1]
    with pytest.raises(PlanError, match=r"not each of 0\.\.299 exactly once"):
        run(replace(plan, sample_ids=twice))
    with pytest.raises(PlanError, match="lists 299 samples"):
        run(replace(plan, sample_ids=plan.sample_ids[1:]))
    node = plan.chunks.schema.get_field_index("node")
    mixed = plan.chunks.set_column(node, "node", pa.array(np.arange(plan.chunks.num_rows, dtype=np.int32) % 3))
    with pytest.raises(PlanError, match=r"shard \d+ .* mixes chunks of several nodes"):
        run(replace(plan, chunks=mixed))
    with pytest.raises(SourceError, match="leaves out the columns number, name"):
        materialize(world.store, keys, plan, SourceReader(world.snapshot, ["label"]))
    assert not [key for key in world.objects() if "/shards/" in key]
