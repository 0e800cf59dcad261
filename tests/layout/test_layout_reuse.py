"""What a layout takes over from the one before: unchanged chunks are not written again, and dead bytes stay bounded."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.errors import PlanError
from foreshard.layout.contents import shard_contents
from foreshard.layout.inherited import Inherited
from foreshard.layout.migration import migration_steps, write_order, written_bytes
from foreshard.layout.plan import PLAN_SCHEMA, Plan, chunk_content_ids, sort_inside_chunks
from foreshard.layout.reuse import MOST_DEAD, SPARE, pack_onto, reuse_shards

ROW_BYTES = 10.0
TARGET = 800


def make(ids: np.ndarray, rows: np.ndarray, parent: Plan | None = None, *, nodes: int = 2, epoch: int = 0) -> Plan:
    """Plan chunks of the given samples as the planner does: what the parent's shards hold stays in them."""
    offsets = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    ids = sort_inside_chunks(ids.astype(np.int64), offsets)
    names = chunk_content_ids(ids, offsets)
    count = len(rows)
    node, split = (np.arange(count) % nodes).astype(np.int32), np.zeros(count, np.uint8)
    shard, inherited = pack_onto(parent, node, split, rows * ROW_BYTES, names, TARGET)
    columns = {
        "chunk": np.arange(count, dtype=np.int32),
        "split": split,
        "group": np.zeros(count, np.int32),
        "node": node,
        "shard": shard,
        "rows": rows.astype(np.int32),
        "heat": np.arange(count, dtype=np.float64),
        "content_id": pa.array(names, pa.binary(16)),
    }
    return Plan(
        generation=f"demo.e{epoch:06d}",
        fingerprint="ab" * 16,
        strategy=f"strategy{epoch}",
        root_seed=3,
        nodes=tuple(f"n{i}" for i in range(nodes)),
        parent=parent.ref if parent else None,
        decision="reshard" if parent else "bootstrap",
        reason="",
        predicted={},
        chunks=pa.table(columns, schema=PLAN_SCHEMA),
        sample_ids=ids,
        inherited=inherited,
    )


def swapped(plan: Plan, chunks: np.ndarray, *, epoch: int) -> Plan:
    """Return a successor in which pairs of chunks have exchanged a sample."""
    ids = plan.sample_ids.copy()
    at = plan.offsets[chunks]
    ids[at] = ids[np.roll(at, 1)]
    return make(ids, plan.column("rows").astype(np.int64), plan, epoch=epoch)


def first(chunks: int = 400, rows: int = 10) -> Plan:
    ids = np.random.default_rng(0).permutation(chunks * rows)
    return make(ids, np.full(chunks, rows))


def bytes_written(old: Plan, new: Plan) -> float:
    return written_bytes(migration_steps(old, new, ROW_BYTES))


def bytes_moved(old: Plan, new: Plan) -> float:
    """Bytes of the new layout's chunks whose content is in no chunk of the old one."""
    known = set(old.chunks["content_id"].to_pylist())
    fresh = [name not in known for name in new.chunks["content_id"].to_pylist()]
    return float(new.column("rows")[np.array(fresh)].sum() * ROW_BYTES)


def check_contents(plan: Plan) -> None:
    """Every chunk of the plan, and nothing else that is alive, lies once in the stored contents, slots without gaps."""
    contents = shard_contents(plan)
    alive = contents.chunk[contents.chunk >= 0]
    assert sorted(alive.tolist()) == list(range(plan.chunks.num_rows))
    assert np.array_equal(contents.content_ids[contents.chunk >= 0], plan.content_bytes()[alive])
    within = np.arange(len(contents.shard)) - contents.bounds[contents.shard]
    assert np.array_equal(within[contents.chunk >= 0], plan.slot[alive])
    for position in range(len(contents.shard)):
        ids = contents.sample_ids(np.array([position]))
        assert chunk_content_ids(ids, np.array([0, len(ids)]))[0] == contents.content_ids[position].tobytes()


def test_a_few_scattered_changes_write_little_more_than_what_is_new():
    old = first()
    new = swapped(old, np.arange(0, 400, 40), epoch=4)
    moved = bytes_moved(old, new)
    assert moved == 10 * 10 * ROW_BYTES
    assert bytes_written(old, new) <= (1 + SPARE) * moved
    assert new.inherited.shards == len(shard_contents(old).names), "every old shard still serves"
    assert len(new.inherited.retired_rows) == 10
    check_contents(new)


def test_nothing_changed_means_nothing_is_written_whatever_the_strategy_is_called():
    old = first()
    new = make(old.sample_ids, old.column("rows").astype(np.int64), old, epoch=4)
    assert bytes_written(old, new) == 0
    assert new.inherited.origins == (old.origin,)
    assert shard_contents(new).names == shard_contents(old).names
    assert set(migration_steps(old, new, ROW_BYTES)["action"].to_pylist()) == {"reuse"}


def test_a_chunk_that_changes_its_node_is_reassigned_not_written():
    old = first()
    node = old.chunks.schema.get_field_index("node")
    other = old.chunks.set_column(node, "node", pa.array(1 - old.column("node")))
    reuse = reuse_shards(old, old.column("split"), old.column("rows") * ROW_BYTES, other["content_id"].to_pylist())
    assert (reuse.shard >= 0).all()
    new = replace(old, generation="demo.e000004", chunks=other, inherited=reuse.inherited)
    steps = migration_steps(old, new, ROW_BYTES).to_pylist()
    moved = [(s["source"], s["target"], s["bytes"]) for s in steps if s["action"] == "reassign"]
    assert moved == [("n0", "n1", 20_000.0), ("n1", "n0", 20_000.0)]
    assert {s["action"] for s in steps} == {"reuse", "reassign"}


def test_a_shard_that_is_mostly_dead_is_left_behind_when_that_is_cheap():
    old = first(chunks=4000)
    contents = shard_contents(old)
    shard = old.column("shard")
    sizes = np.bincount(shard)
    target = int(np.flatnonzero(sizes >= 5)[0])
    members = np.flatnonzero(shard == target)
    # All but one chunk of one shard change, and enough elsewhere that one chunk is little beside.
    elsewhere = np.flatnonzero(shard != target)[::20]
    new = swapped(old, np.concatenate([members[1:], elsewhere]), epoch=4)
    assert contents.names[target] not in shard_contents(new).names
    extra = bytes_written(old, new) - bytes_moved(old, new)
    assert 0 < extra <= SPARE * bytes_moved(old, new)
    check_contents(new)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.6))
def test_over_ten_generations_dead_bytes_stay_bounded_and_contents_whole(seed, share):
    rng = np.random.default_rng(seed)
    plan = first(chunks=120, rows=5)
    for generation in range(1, 11):
        count = plan.chunks.num_rows
        changed = rng.choice(count, max(2, int(share * count)), replace=False)
        new = swapped(plan, changed, epoch=4 * generation)
        check_contents(new)
        dead = float(new.inherited.retired_rows.sum())
        assert dead <= MOST_DEAD * len(new.sample_ids)
        if dead < 0.5 * MOST_DEAD * len(new.sample_ids):  # far from the bound, only what is cheap is written again
            assert bytes_written(plan, new) <= 1.10 * max(bytes_moved(plan, new), 1.0) + TARGET
        plan = Plan.from_bytes(*new.to_bytes())
        assert plan.digest == new.digest


def test_chunks_of_another_split_are_not_taken_over():
    old = first(chunks=20)
    split = np.zeros(20, np.uint8)
    split[3] = 1
    reuse = reuse_shards(old, split, old.column("rows") * ROW_BYTES, old.chunks["content_id"].to_pylist())
    assert np.flatnonzero(reuse.shard < 0).tolist() == [3]


def test_without_a_parent_or_anything_in_common_nothing_is_inherited():
    old = first(chunks=20)
    names = old.chunks["content_id"].to_pylist()
    size, split = old.column("rows") * ROW_BYTES, old.column("split")
    assert reuse_shards(None, split, size, names).inherited.shards == 0
    none = reuse_shards(old, split, size, [bytes(16)] * 20)
    assert none.inherited.shards == 0
    assert (none.shard == -1).all()


def test_shards_are_written_in_order_of_draws_per_row():
    plan = first()
    contents = shard_contents(plan)
    heat = np.bincount(plan.column("shard"), plan.column("heat")) / np.bincount(plan.column("shard"))
    assert (np.diff(heat[write_order(contents)]) <= 0).all()


def test_slots_with_gaps_are_refused():
    from foreshard.layout.check import _check_slots

    old = first()
    new = swapped(old, np.arange(0, 400, 40), epoch=4)
    _check_slots(new)
    gap = replace(new.inherited, retired_slot=new.inherited.retired_slot + 1)
    with pytest.raises(PlanError, match=r"the slots of shard \d+ are not 0, 1, 2"):
        _check_slots(replace(new, inherited=gap))
    with pytest.raises(PlanError, match="gives 0 slots for 400 chunks"):
        _check_slots(replace(new, inherited=replace(new.inherited, slot=np.zeros(0, np.int32))))
    assert Inherited().shards == 0
