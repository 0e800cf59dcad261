"""Many chunks at once get the seeds, order and digests that each would get alone."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshard.errors import PlanError
from foreshard.seeding import Origin
from foreshard.shards import chunk_order
from foreshard.shards.chunk_order import chunk_seeds, order_digests, sorted_inside, stored_order
from foreshard.shards.metadata import generate_seed, order_digest, shuffle_rows

ORIGINS = [Origin("ab" * 16, "hotness", 7), Origin("ab" * 16, "contiguous", -1), Origin("cd" * 16, "höher ✓", 2**70)]


def _chunks(rows, seed=0):
    """Return ids (ascending inside chunks), offsets, content ids and origin codes of chunks of these sizes."""
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)]).astype(np.int64)
    ids = random.permutation(3 * int(offsets[-1]) + 1)[: offsets[-1]].astype(np.int64)
    content_ids = random.integers(0, 256, (len(rows), 16), dtype=np.uint8)
    return sorted_inside(ids, offsets), offsets, content_ids, random.integers(0, 3, len(rows)).astype(np.int16)


def _check(rows, seed=0):
    ids, offsets, content_ids, codes = _chunks(rows, seed)
    seeds = chunk_seeds(content_ids, codes, ORIGINS)
    stored = stored_order(ids, offsets, seeds)
    digests = order_digests(stored, offsets)
    for chunk in range(len(rows)):
        origin = ORIGINS[codes[chunk]]
        alone = generate_seed(
            content_ids[chunk].tobytes(),
            fingerprint=origin.fingerprint,
            strategy=origin.strategy,
            root_seed=origin.root_seed,
        )
        part = slice(offsets[chunk], offsets[chunk + 1])
        assert seeds[chunk].tobytes() == alone
        assert stored[part].tolist() == shuffle_rows(np.sort(ids[part]), alone).tolist()
        assert digests[chunk].tobytes() == order_digest(stored[part])


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(0, 1000))
def test_seeds_order_and_digests_are_those_of_each_chunk_alone(rows, seed):
    _check(rows, seed)


@pytest.mark.parametrize(
    "rows", [[70_000], [1, 70_000, 0, 3], [40_000, 40_000, 5], [0] * 70_000 + [2]], ids=["one", "mixed", "two", "empty"]
)
def test_it_does_not_matter_where_blocks_of_chunks_end(rows):
    ids, offsets, content_ids, codes = _chunks(rows)
    seeds = chunk_seeds(content_ids, codes, ORIGINS)
    stored = stored_order(ids, offsets, seeds)
    for chunk in {0, len(rows) // 2, len(rows) - 2, len(rows) - 1} & set(range(len(rows))):
        part = slice(offsets[chunk], offsets[chunk + 1])
        assert np.array_equal(stored[part], shuffle_rows(ids[part], seeds[chunk].tobytes()))
        assert order_digests(stored, offsets)[chunk].tobytes() == order_digest(stored[part])


def test_rows_whose_keys_differ_only_in_the_bits_that_make_room_for_the_chunk_are_still_in_order():
    chunk = np.array([0, 0, 0, 1, 1, 2], np.int64)
    keys = np.array([9, 8, 9, 3, 2, 0], np.uint64)
    assert chunk_order._order(chunk, keys, 3).tolist() == [1, 0, 2, 4, 3, 5]
    assert chunk_order._order(np.zeros(3, np.int64), keys[:3], 1).tolist() == [1, 0, 2]


@given(st.lists(st.integers(0, 6), max_size=8), st.randoms(use_true_random=False))
def test_ids_are_sorted_inside_their_chunks_alone(rows, random):
    offsets = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)]).astype(np.int64)
    ids = list(range(int(offsets[-1])))
    random.shuffle(ids)
    ids = np.array(ids, np.int64)
    found = sorted_inside(ids, offsets)
    for start, stop in pairwise(offsets):
        assert found[start:stop].tolist() == sorted(ids[start:stop].tolist())
    assert sorted_inside(found, offsets) is found


def test_a_chunk_of_an_origin_that_is_not_listed_is_refused():
    for code in (-1, 3):
        with pytest.raises(PlanError, match=rf"origins {code}\.\.{code} and 3 origins are listed"):
            chunk_seeds(np.zeros((1, 16), np.uint8), np.array([code], np.int16), ORIGINS)
    assert chunk_seeds(np.zeros((0, 16), np.uint8), np.zeros(0, np.int16), []).shape == (0, 16)
