"""`verify` notices whatever a layout claims and does not keep."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from shardkit import World, build_plan, flip_byte, make_world, splits_of

from foreshard.errors import CorruptDataError, ObjectNotFoundError
from foreshard.keys import LayoutRef
from foreshard.shards.verify import Claims, VerifyReport, verify_layout
from foreshard.splits import encode_splits

if TYPE_CHECKING:
    from foreshard.shards.manifest import Manifest


@pytest.fixture
def made(tmp_path) -> tuple[World, LayoutRef]:
    world = make_world(tmp_path)
    return world, world.make(build_plan(world.snapshot))


def check(world: World, ref: LayoutRef, **changed) -> VerifyReport:
    """Verify with some of what the repository records replaced."""
    manifest: Manifest = changed.get("manifest") or world.repository.open(ref)
    return verify_layout(
        world.store,
        manifest,
        Claims(
            changed.get("plan") or world.repository.load_plan(ref),
            changed.get("consistency") or world.repository.consistency(ref),
            changed.get("splits", splits_of(world.snapshot)),
        ),
    )


def test_a_sound_layout_has_no_problem_and_its_totals_are_reported(made):
    world, ref = made
    report = world.repository.verify(ref)
    manifest = world.repository.open(ref)
    assert report == VerifyReport(
        ref, len(manifest.shards), len(manifest), 300, sum(s.size for s in manifest.shards), ()
    )
    assert report.ok


def test_a_flipped_bit_between_the_chunks_is_found_by_the_shards_digest(made):
    world, ref = made
    shard = world.repository.open(ref).shards[2]
    flip_byte(world.path(shard.key), shard.size - 3)
    assert world.repository.verify(ref).problems == (
        f"shard {shard.key!r} does not match its SHA-256; delete it and materialise again",
    )


def test_a_flipped_bit_in_a_chunk_is_found_with_the_samples_it_costs(made):
    world, ref = made
    manifest = world.repository.open(ref)
    flip_byte(world.path(manifest.shard_key(4)), int(manifest.starts[4]) + 100)
    problems = world.repository.verify(ref).problems
    assert any("SHA-256" in p for p in problems)
    assert any("chunk 4 of layout" in p and "checksum" in p for p in problems)
    assert any(p.startswith(f"{manifest.rows[4]} samples are in no chunk") for p in problems)


def test_a_missing_shard_is_found(made):
    world, ref = made
    manifest = world.repository.open(ref)
    world.path(manifest.shard_key(0)).unlink()
    problems = world.repository.verify(ref).problems
    assert problems[0].startswith(f"shard {manifest.shard_key(0)!r} is missing")
    assert any("in no chunk" in p for p in problems)


def test_a_row_in_the_wrong_split_is_found(made):
    world, ref = made
    splits = splits_of(world.snapshot)
    row = int(np.flatnonzero(splits == 0)[0])
    splits[row] = 2
    [problem] = check(world, ref, splits=splits).problems
    chunk = world.repository.open(ref).chunk_of[row]
    assert problem.startswith(f"chunk {chunk} of shard")
    assert problem.endswith("is of split 'train' and holds samples of another")
    assert check(world, ref, splits=splits_of(world.snapshot)).ok


def test_splits_changed_in_the_store_are_found(made):
    world, ref = made
    splits = 2 - splits_of(world.snapshot)
    world.path(world.repository.keys.splits(world.snapshot.fingerprint)).write_bytes(encode_splits(splits))
    assert not world.repository.verify(ref).ok


def test_an_index_that_contradicts_chunks_or_plan_is_found(made):
    world, ref = made
    manifest = world.repository.open(ref)
    manifest.row_of = manifest.row_of.copy()
    manifest.row_of[17] += 1
    problems = check(world, ref, manifest=manifest).problems
    assert problems[0].endswith("is not indexed in the order that its seed gives")
    other = build_plan(world.snapshot, order_seed=5)
    assert check(world, ref, plan=other).problems == ("the sample index differs from the recorded plan",)


def test_a_sample_twice_is_found(made):
    world, ref = made
    manifest = world.repository.open(ref)
    # The table names one chunk's bytes for two chunks.
    for name in ("shard_of", "starts", "ends", "checksums", "rows"):
        values = getattr(manifest, name).copy()
        values[1] = values[0]
        setattr(manifest, name, values)
    problems = check(world, ref, manifest=manifest).problems
    assert any("samples are in several chunks" in p for p in problems)
    assert any("samples are in no chunk" in p for p in problems)


def test_seeds_that_do_not_follow_from_the_content_are_found(made):
    world, ref = made
    manifest = world.repository.open(ref)
    problems = check(world, ref, plan=replace(world.repository.load_plan(ref), root_seed=8)).problems
    assert len(problems) == len(manifest)
    assert all(problem.endswith("has a seed that does not follow from its content") for problem in problems)


def test_metadata_that_contradict_the_manifest_are_found(made):
    world, ref = made
    manifest = world.repository.open(ref)
    manifest.seeds = manifest.seeds.copy()
    manifest.seeds[6, 0] ^= 1
    assert check(world, ref, manifest=manifest).problems == (
        "the consistency metadata record other seeds than the manifest",
    )
    consistency = world.repository.consistency(ref)
    short = check(world, ref, consistency=consistency.slice(1)).problems
    assert short == (f"the consistency metadata has {len(manifest) - 1} chunks, the manifest {len(manifest)}",)
    place = consistency.schema.get_field_index("prng_state")
    states = pa.array(["{}"] * len(manifest))
    columns = [*consistency.columns[:place], states, *consistency.columns[place + 1 :]]
    changed = pa.RecordBatch.from_arrays(columns, schema=consistency.schema)
    [problem] = check(world, ref, consistency=changed).problems
    assert problem.endswith("PRNG states that do not follow from the seeds")


def test_an_order_other_than_the_recorded_one_is_found(made):
    world, ref = made
    consistency = world.repository.consistency(ref)
    place = consistency.schema.get_field_index("order_sha256")
    orders = consistency.column("order_sha256").to_pylist()
    orders[5] = b"\x00" * 32
    columns = [*consistency.columns[:place], pa.array(orders, pa.binary(32))]
    changed = pa.RecordBatch.from_arrays(columns, schema=consistency.schema)
    [problem] = check(world, ref, consistency=changed).problems
    assert problem.startswith("chunk 5 of shard")
    assert "not in the order that its consistency metadata records" in problem


def test_problems_are_capped_and_counted(tmp_path):
    world = make_world(tmp_path)
    plan = build_plan(world.snapshot, chunk_rows=2)
    ref = world.make(plan)
    manifest = world.repository.open(ref)
    problems = check(world, ref, plan=replace(plan, root_seed=8)).problems
    assert len(problems) == 101
    assert problems[-1] == f"and {len(manifest) - 100} problems more"


def test_verifying_what_is_not_committed_says_so(made):
    world, ref = made
    with pytest.raises(ObjectNotFoundError, match="is not committed"):
        world.repository.verify(LayoutRef("demo.e000004", ref.plan_digest))
    header = world.repository.header(ref)
    world.path(world.repository.keys.layout(*_name(ref), header.parts["consistency"].name)).unlink()
    with pytest.raises(CorruptDataError, match="consistency-"):
        world.repository.verify(ref)


def _name(ref: LayoutRef) -> tuple[str, str]:
    return ref.generation, ref.plan_digest
