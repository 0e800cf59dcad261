"""Strategies: exact permutations, groups, mixes and their independence from everything but their input."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.errors import PlanError
from foreshard.seeding import derive_seed, uniforms
from foreshard.strategies import STRATEGIES, StrategyInput, cut_groups, deal, get_strategies, partition
from foreshard.strategies.clusters import cluster_codes
from foreshard.strategies.tiers import heat_tiers


def rows(m: int, *, classes: int = 3, dims: int = 3, root: int = 0) -> StrategyInput:
    rng = np.random.default_rng(m + 7)
    labels = np.minimum(rng.geometric(0.4, m) - 1, classes - 1).astype(np.int32)
    features = (rng.normal(size=(m, dims)) + 3 * (labels[:, None] % 2)).astype(np.float32)
    heat = rng.exponential(1.0, m).astype(np.float32) ** 3
    ids = np.sort(rng.choice(10 * m + 1, m, replace=False)).astype(np.int64)
    return StrategyInput(ids, labels, features, heat, derive_seed(purpose="test", root=root))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(STRATEGIES)), st.integers(0, 300), st.integers(1, 5), st.integers(0, 4))
def test_every_strategy_gives_a_permutation_with_non_decreasing_groups(name, m, classes, dims):
    arranged = STRATEGIES[name](rows(m, classes=classes, dims=dims))
    assert arranged.order.dtype == np.int64
    assert arranged.group.dtype == np.int32
    assert np.array_equal(np.sort(arranged.order), np.arange(m))
    assert (np.diff(arranged.group) >= 0).all()
    assert len(arranged.group) == m


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(STRATEGIES)), st.integers(1, 300), st.integers(1, 9), st.integers(1, 400))
def test_a_partition_gives_every_node_rows(name, m, nodes, chunk_rows):
    node_of = partition(STRATEGIES[name], rows(m), nodes, chunk_rows)
    assert node_of.shape == (m,)
    assert node_of.min() >= 0
    assert node_of.max() < nodes
    if m >= nodes:
        assert len(np.unique(node_of)) == nodes


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_strategy_is_a_pure_function_of_its_input(name):
    first, second = STRATEGIES[name](rows(2000)), STRATEGIES[name](rows(2000))
    assert np.array_equal(first.order, second.order)
    assert np.array_equal(first.group, second.group)


@pytest.mark.parametrize("name", ["contiguous", "hash", "hotness"])
def test_strategies_without_randomness_ignore_the_seed(name):
    assert np.array_equal(STRATEGIES[name](rows(999)).order, STRATEGIES[name](rows(999, root=1)).order)


@pytest.mark.parametrize("name", ["seeded_shuffle", "stratified", "stratified_hotness"])
def test_random_strategies_change_with_the_seed(name):
    assert not np.array_equal(STRATEGIES[name](rows(999)).order, STRATEGIES[name](rows(999, root=1)).order)


def test_the_order_of_hash_and_shuffle_survives_dropping_rows():
    data = rows(500)
    keep = np.flatnonzero(np.arange(500) % 3 > 0)
    fewer = StrategyInput(data.sample_ids[keep], data.labels[keep], data.features[keep], data.heat[keep], data.seed)
    for name in ("hash", "seeded_shuffle"):
        full = data.sample_ids[STRATEGIES[name](data).order]
        assert np.array_equal(full[np.isin(full, fewer.sample_ids)], fewer.sample_ids[STRATEGIES[name](fewer).order])


def test_every_chunk_of_stratified_has_the_global_label_mix():
    data = rows(4000)
    labels = data.labels[STRATEGIES["stratified"](data).order].reshape(40, 100)
    expected = np.bincount(data.labels, minlength=3) / 40
    counts = np.stack([np.bincount(chunk, minlength=3) for chunk in labels])
    # Each label spreads over at most 4 strata, each of which is off by at most one row per chunk.
    assert np.abs(counts - expected).max() <= 4


def test_stratified_hotness_mixes_labels_inside_each_tier():
    data = rows(8000)
    arranged = STRATEGIES["stratified_hotness"](data)
    tiers = heat_tiers(data.heat)[arranged.order]
    assert (np.diff(tiers) >= 0).all()
    labels = data.labels[arranged.order][tiers == tiers.max()]
    half = len(labels) // 2
    first, second = np.bincount(labels[:half], minlength=3), np.bincount(labels[half : 2 * half], minlength=3)
    assert np.abs(first - second).max() <= 8


def test_hotness_packs_the_hottest_rows_first_and_ids_ascending_inside_a_tier():
    data = rows(3000)
    arranged = STRATEGIES["hotness"](data)
    heat = data.heat[arranged.order]
    hottest = heat[arranged.group == 0]
    assert hottest.min() >= heat[arranged.group > 0].max()
    assert 3000 // 64 <= len(hottest) <= 3000 // 16
    for tier in range(arranged.group.max() + 1):
        assert (np.diff(arranged.order[arranged.group == tier]) > 0).all()


def test_uniform_heat_is_one_tier_and_rows_without_heat_are_their_own():
    assert heat_tiers(np.ones(100, np.float32)).max() == 0
    assert heat_tiers(np.linspace(1.0, 1.04, 100).astype(np.float32)).max() == 0
    assert heat_tiers(np.zeros(100, np.float32)).max() == 0
    mostly_cold = np.zeros(100, np.float32)
    mostly_cold[[3, 50]] = 2.0, 2.0
    assert np.array_equal(np.flatnonzero(heat_tiers(mostly_cold) == 0), [3, 50])


def test_clustered_keeps_separate_blobs_apart():
    rng = np.random.default_rng(5)
    blob = rng.integers(0, 4, 2000)
    features = (rng.normal(scale=0.1, size=(2000, 2)) + np.array([[0, 0], [0, 9], [9, 0], [9, 9]])[blob]).astype("f4")
    codes = cluster_codes(features, np.arange(2000, dtype=np.int64), 4, bytes(16))
    assert len(np.unique(codes)) == 4
    for code in range(4):
        assert len(np.unique(blob[codes == code])) == 1
    zeros = np.zeros(2000)
    data = StrategyInput(np.arange(2000), zeros.astype("i4"), features, zeros.astype("f4"), bytes(16))
    arranged = STRATEGIES["clustered"](data)
    for group in range(arranged.group.max() + 1):
        assert len(np.unique(blob[arranged.order[arranged.group == group]])) == 1


def test_clusters_of_equal_rows_are_one():
    assert cluster_codes(np.ones((100, 2), np.float32), np.arange(100, dtype=np.int64), 4, bytes(16)).max() == 0


def golden_rows() -> StrategyInput:
    # From our own PRNG: numpy's generators may change between versions.
    draw = [uniforms(bytes([i]) * 16, np.arange(3000, dtype=np.int64)) for i in range(4)]
    features = np.stack(draw[:2], axis=1).astype(np.float32)
    heat = (1 / (draw[2] + 0.01)).astype(np.float32)
    return StrategyInput(np.arange(3000) * 3, (draw[3] * 3).astype(np.int32), features, heat, bytes(range(16)))


def test_arrangements_stay_what_they_were():
    found = {
        name: hashlib.sha256(strategy(golden_rows()).order.astype("<i8").tobytes()).hexdigest()[:16]
        for name, strategy in STRATEGIES.items()
    }
    assert found == GOLDEN


def test_clustered_has_the_more_uneven_nodes():
    data = rows(4000)

    def label_gap(name: str) -> float:
        node_of = partition(STRATEGIES[name], data, 4, 100)
        share = np.array([np.bincount(data.labels[node_of == node], minlength=3) for node in range(4)])
        share = share / share.sum(axis=1, keepdims=True)
        return float(np.ptp(share, axis=0).max())

    assert label_gap("stratified") < 0.02 < label_gap("seeded_shuffle") + 0.02 < label_gap("clustered")


@given(st.lists(st.integers(1, 50), max_size=6), st.integers(1, 20))
def test_cuts_respect_groups_and_the_largest_chunk(sizes, chunk_rows):
    group = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    offsets = cut_groups(group, chunk_rows)
    lengths = np.diff(offsets)
    assert offsets[0] == 0
    assert offsets[-1] == len(group)
    assert (lengths > 0).all()
    assert (lengths <= chunk_rows).all()
    assert len(lengths) == sum(-(-size // chunk_rows) for size in sizes)
    assert set(np.cumsum(sizes)) <= set(offsets.tolist())


def test_contiguous_dealing_gives_stretches_and_round_robin_gives_turns():
    offsets = np.arange(0, 90, 10)
    assert deal(offsets, "contiguous", 2).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert deal(offsets, "round_robin", 3).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_unknown_strategies_are_named_with_the_known_ones():
    with pytest.raises(PlanError, match=r"'magic' is unknown.*contiguous, hash"):
        get_strategies(["hash", "magic"])
    assert list(get_strategies(["hash", "contiguous"])) == ["hash", "contiguous"]
    assert get_strategies() == STRATEGIES
    assert len(STRATEGIES) >= 6


def test_bad_input_is_refused_with_the_offending_value():
    data = rows(10)
    with pytest.raises(PlanError, match="labels has 9 rows, sample_ids has 10"):
        StrategyInput(data.sample_ids, data.labels[1:], data.features, data.heat, data.seed)
    with pytest.raises(PlanError, match="not strictly ascending"):
        StrategyInput(data.sample_ids[::-1], data.labels, data.features, data.heat, data.seed)
    with pytest.raises(PlanError, match="nodes is 0"):
        partition(STRATEGIES["hash"], data, 0, 5)
    with pytest.raises(PlanError, match="chunk_rows is 0"):
        cut_groups(np.zeros(3, np.int32), 0)


GOLDEN = {
    "contiguous": "e8c9ceaf5aacc63c",
    "hash": "e9355ad26ae0a770",
    "seeded_shuffle": "e93120fd24bcc55b",
    "stratified": "540d0e902fe0faee",
    "clustered": "009b43dac94016dc",
    "hotness": "30690925679d2fa5",
    "stratified_hotness": "3248b9bd70ccd963",
}
