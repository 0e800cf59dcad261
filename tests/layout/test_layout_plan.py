"""Plans as data: round trip, digest, shards, migration, and the checker that every plan must pass."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.config import ClusterConfig, NodeConfig, ReshardConfig
from foreshard.errors import CorruptDataError, PlanError
from foreshard.keys import LayoutRef
from foreshard.layout.check import check_plan
from foreshard.layout.migration import migration_seconds, migration_steps, written_bytes
from foreshard.layout.packing import deal_by_memory, pack_shards
from foreshard.layout.plan import PLAN_SCHEMA, Plan, chunk_content_ids

CLUSTER = ClusterConfig(nodes=(NodeConfig(name="a", memory=1000), NodeConfig(name="b", memory=1000)))
RESHARD = ReshardConfig.model_validate({"min_chunk_rows": 2, "max_chunk_rows": 4})
SPLITS = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 2], np.uint8)


def plan(**changes: object) -> Plan:
    """Three training chunks (the third a group of its own), one validation chunk, one test chunk of one row."""
    samples = np.array([1, 3, 5, 0, 2, 6, 4, 7, 8, 9], np.int64)
    rows = np.array([3, 3, 1, 2, 1], np.int32)
    columns = {
        "chunk": np.arange(5, dtype=np.int32),
        "split": np.array([0, 0, 0, 1, 2], np.uint8),
        "group": np.array([0, 0, 1, 0, 0], np.int32),
        "node": np.array([0, 1, 0, 1, 0], np.int32),
        "shard": np.array([0, 2, 0, 3, 1], np.int32),
        "rows": rows,
        "heat": np.array([9.0, 3.0, 5.0, 0.0, 0.0]),
    }
    columns |= {name: changes.pop(name) for name in list(changes) if name in columns}
    samples = changes.pop("sample_ids", samples)
    offsets = np.concatenate([[0], np.cumsum(columns["rows"])]).astype(np.int64)
    names = chunk_content_ids(samples, offsets) if offsets[-1] == len(samples) else [bytes(16)] * 5
    table = pa.table({**columns, "content_id": pa.array(names, pa.binary(16))}, schema=PLAN_SCHEMA)
    made = Plan(
        generation="demo.e000004", fingerprint="ab" * 16, strategy="hotness", root_seed=3, nodes=("a", "b"),
        parent=None, decision="bootstrap", reason="first layout", predicted={"row_bytes": 10.0, "saving_s": 1 / 3},
        chunks=table, sample_ids=samples,
    )  # fmt: skip
    return replace(made, **changes)


def test_a_plan_survives_its_bytes():
    made = plan()
    head, body = made.to_bytes()
    back = Plan.from_bytes(head, body)
    assert back.to_bytes() == (head, body)
    assert back.digest == made.digest
    assert back.chunks.equals(made.chunks)
    assert np.array_equal(back.sample_ids, made.sample_ids)
    for name in ("generation", "fingerprint", "strategy", "root_seed", "nodes", "parent", "decision", "reason"):
        assert getattr(back, name) == getattr(made, name)
    assert back.predicted == made.predicted


def test_the_digest_ignores_what_changes_no_byte():
    same = (
        {"generation": "demo.e000008"}, {"parent": LayoutRef("demo.e000000", "0" * 32)}, {"decision": "keep"},
        {"reason": "other"}, {"predicted": {}}, {"heat": np.ones(5)}, {"nodes": ("x", "y")},
        {"group": np.array([0, 1, 2, 0, 0], np.int32)},
    )  # fmt: skip
    for change in same:
        assert plan(**change).digest == plan().digest, change


def test_the_digest_follows_everything_that_changes_bytes():
    other = [
        {"fingerprint": "cd" * 16}, {"strategy": "hash"}, {"root_seed": 4},
        {"node": np.array([1, 1, 0, 1, 0], np.int32)}, {"shard": np.array([0, 2, 4, 3, 1], np.int32)},
        {"split": np.array([0, 0, 0, 1, 1], np.uint8)}, {"rows": np.array([2, 4, 1, 2, 1], np.int32)},
        {"sample_ids": np.array([1, 3, 6, 0, 2, 5, 4, 7, 8, 9], np.int64)},
    ]  # fmt: skip
    digests = {plan(**change).digest for change in other}
    assert len(digests | {plan().digest}) == len(other) + 1


def test_digest_and_content_ids_stay_what_they_were():
    assert plan().digest == "e824c165523b2540a10771066572318d"
    ids = chunk_content_ids(np.array([5, 1, 3, 2], np.int64), np.array([0, 3, 4]))
    assert [i.hex() for i in ids] == [
        "3674fe966cac252d3ebe1d2eb71537a7",
        "2e050e95229fe5b096218c658db7efbf",
    ]


def test_content_ids_name_a_set_of_samples():
    offsets = np.array([0, 3, 5])
    one = chunk_content_ids(np.array([3, 1, 2, 9, 8], np.int64), offsets)
    assert one == chunk_content_ids(np.array([1, 2, 3, 8, 9], np.int64), offsets)
    assert one != chunk_content_ids(np.array([1, 2, 4, 8, 9], np.int64), offsets)
    assert len(set(one)) == 2
    assert chunk_content_ids(np.zeros(0, np.int64), np.array([0])) == []


def test_chunk_of_finds_the_chunk_of_every_sample():
    assert plan().chunk_of().tolist() == [1, 0, 1, 0, 2, 0, 1, 3, 3, 4]


def test_damaged_bytes_are_refused():
    head, body = plan().to_bytes()
    for broken in ((b"{", body), (head, b"nonsense"), (b"{}", body), (head.replace(b'"hotness"', b'"hash"'), body)):
        with pytest.raises(CorruptDataError, match="plan"):
            Plan.from_bytes(*broken)


def test_a_sound_plan_passes():
    check_plan(plan(), SPLITS, CLUSTER, RESHARD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_ids": np.array([1, 3, 5, 0, 2, 6, 6, 7, 8, 9], np.int64)}, "sample 4 0 times"),
        ({"sample_ids": np.array([1, 3, 5, 0, 2, 6, 4, 7, 8, 10], np.int64)}, "outside 0..9"),
        ({"sample_ids": np.array([3, 1, 5, 0, 2, 6, 4, 7, 8, 9], np.int64)}, "ids of chunk 0 are not ascending"),
        ({"sample_ids": np.array([1, 3, 7, 0, 2, 6, 4, 5, 8, 9], np.int64)}, "chunk 0 holds sample 7 of another split"),
        ({"rows": np.array([3, 3, 1, 2, 2], np.int32)}, "chunks of 11 rows, the snapshot has 10"),
        ({"chunk": np.array([0, 1, 2, 4, 3], np.int32)}, "does not number its chunks"),
        ({"group": np.array([0, 0, 0, 0, 0], np.int32)}, "chunk 2 has 1 rows"),
        ({"rows": np.array([5, 1, 1, 2, 1], np.int32), "sample_ids": np.array([0, 1, 2, 3, 5, 6, 4, 7, 8, 9])},
         "chunk 0 has 5 rows"),
        ({"node": np.array([0, 2, 0, 1, 0], np.int32)}, "node numbers outside 0..1"),
        ({"shard": np.array([0, 2, 0, 2, 1], np.int32)}, "each with one node and one split"),
        ({"shard": np.array([0, 3, 0, 4, 1], np.int32)}, "numbered from 0"),
        ({"nodes": ("a", "c")}, r"\['a', 'c'\], the cluster has \['a', 'b'\]"),
        ({"predicted": {"row_bytes": 300.0}}, "1500 bytes on node 'a', which has 1000"),
    ],
)  # fmt: skip
def test_a_broken_plan_is_refused_naming_what_is_wrong(changes, message):
    with pytest.raises(PlanError, match=message):
        check_plan(plan(**changes), SPLITS, CLUSTER, RESHARD)


def test_a_content_id_that_does_not_match_is_refused():
    made = plan()
    wrong = made.chunks.set_column(7, "content_id", pa.array([bytes(16)] * 5, pa.binary(16)))
    with pytest.raises(PlanError, match="content id"):
        check_plan(replace(made, chunks=wrong.cast(PLAN_SCHEMA)), SPLITS, CLUSTER, RESHARD)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 80), st.integers(1, 4), st.integers(1, 4000), st.integers(0, 99))
def test_shards_hold_one_node_and_split_and_stay_near_the_target(chunks, nodes, target, seed):
    rng = np.random.default_rng(seed)
    node = rng.integers(0, nodes, chunks).astype(np.int32)
    split = np.sort(rng.integers(0, 3, chunks)).astype(np.uint8)
    nbytes = rng.uniform(1, 500, chunks)
    names = [rng.bytes(16) for _ in range(chunks)]
    shard = pack_shards(node, split, nbytes, names, target)
    assert np.array_equal(np.unique(shard), np.arange(shard.max() + 1))
    for number in range(shard.max() + 1):
        members = np.flatnonzero(shard == number)
        assert len(np.unique(node[members])) == len(np.unique(split[members])) == 1
        assert nbytes[members].sum() <= target + 500


def test_a_changed_chunk_leaves_most_shards_as_they_are():
    rng = np.random.default_rng(2)
    names = [rng.bytes(16) for _ in range(2000)]
    zeros = np.zeros(2000, np.int32)
    before = pack_shards(zeros, zeros.astype(np.uint8), np.full(2000, 10.0), names, 200)
    inserted = [*names[:100], rng.bytes(16), *names[100:]]
    more = np.zeros(2001, np.int32)
    after = pack_shards(more, more.astype(np.uint8), np.full(2001, 10.0), inserted, 200)

    def contents(shard, ids):
        return {tuple(ids[i] for i in np.flatnonzero(shard == number)) for number in range(shard.max() + 1)}

    old, new = contents(before, names), contents(after, inserted)
    assert len(old - new) <= 10 < 0.1 * len(old)


def test_chunks_are_dealt_in_proportion_to_memory_and_evenly():
    node = deal_by_memory(12, np.array([1.0, 2.0, 3.0]))
    assert np.bincount(node).tolist() == [2, 4, 6]
    assert np.bincount(node[:6], minlength=3).tolist() == [1, 2, 3]
    assert deal_by_memory(0, np.ones(2)).tolist() == []
    assert sorted(deal_by_memory(2, np.ones(3)).tolist()) == [0, 1]


def test_migration_reuses_writes_the_useful_first_and_retires_last():
    old = plan()
    # Chunks 0 and 2 share shard 0: it changes with chunk 2's node; shards of chunks 1, 3 and 4 keep their content.
    new = plan(node=np.array([0, 1, 1, 1, 0], np.int32), shard=np.array([0, 2, 3, 4, 1], np.int32))
    steps = migration_steps(old, new, 10.0).to_pylist()
    assert [(s["action"], s["shard"], s["node"], s["bytes"]) for s in steps] == [
        ("reuse", 1, 0, 10.0), ("reuse", 2, 1, 30.0), ("reuse", 4, 1, 20.0),
        ("write", 3, 1, 10.0), ("write", 0, 0, 30.0),  # 5 draws on 1 row before 9 on 3
        ("reassign", -1, 1, 10.0), ("retire", 0, 0, 40.0),
    ]  # fmt: skip
    assert [s["step"] for s in steps] == list(range(7))
    assert [(s["source"], s["target"]) for s in steps if s["action"] in ("reassign", "write")] == [
        ("snapshot " + "ab" * 16, "shard 3 on b"), ("snapshot " + "ab" * 16, "shard 0 on a"), ("a", "b"),
    ]  # fmt: skip
    assert written_bytes(migration_steps(old, new, 10.0)) == 40.0
    seconds = migration_seconds(migration_steps(old, new, 10.0), np.array([10.0, 5.0]), 0.5)
    assert seconds == pytest.approx(2 * max(30 / 10 + 0.5, 10 / 5 + 0.5))


def test_migration_of_a_first_of_an_equal_and_of_a_reseeded_plan():
    first = migration_steps(None, plan(), 10.0)
    assert set(first["action"].to_pylist()) == {"write"}
    assert written_bytes(first) == 100.0
    same = migration_steps(plan(), plan(generation="demo.e000008"), 10.0)
    assert set(same["action"].to_pylist()) == {"reuse"}
    assert written_bytes(same) == 0.0
    # Rows are shuffled by a seed that depends on the strategy: other bytes, though the same samples.
    reseeded = migration_steps(plan(), plan(strategy="hash"), 10.0)
    assert reseeded["action"].to_pylist() == ["write"] * 4 + ["retire"] * 4
    assert "strategy hash instead of hotness" in reseeded["reason"].to_pylist()
