"""Splits: the same row is in the same split for ever, and the shares are what was asked for."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshard.errors import ConfigError, CorruptDataError
from foreshard.splits import (
    SPLITS,
    assign_splits,
    check_splits_stable,
    decode_splits,
    encode_splits,
    hash_keys,
    split_code,
)

GOLDEN = json.loads(Path(__file__).with_name("golden_seeding.json").read_text())
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def test_splits_never_change():
    golden = GOLDEN["splits"]
    codes = assign_splits(np.arange(golden["n"]), golden["fractions"], golden["root"])
    assert codes.dtype == np.uint8
    assert codes[:40].tolist() == golden["first"]
    assert np.bincount(codes).tolist() == golden["counts"]
    assert hashlib.sha256(codes.tobytes()).hexdigest() == golden["sha256"]


def test_hashes_of_key_columns_never_change():
    golden = GOLDEN["hash_keys"]
    assert hash_keys(golden["values"]).tolist() == golden["keys"]
    assert hash_keys([]).dtype == np.int64


@given(st.integers(0, 2**32), st.integers(0, 400), st.integers(0, 400))
def test_appended_rows_leave_the_split_of_the_others_alone(seed, before, appended):
    whole = assign_splits(np.arange(before + appended), SHARES, seed)
    assert np.array_equal(whole[:before], assign_splits(np.arange(before), SHARES, seed))


@given(st.integers(0, 2**32), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=60), st.randoms())
def test_a_rows_split_does_not_depend_on_its_place(seed, keys, random):
    order = list(range(len(keys)))
    random.shuffle(order)
    keys = np.array(keys, np.int64)
    assert np.array_equal(assign_splits(keys, SHARES, seed)[order], assign_splits(keys[order], SHARES, seed))


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_growing_the_train_share_only_adds_rows_to_it(seed, one, other):
    small, large = sorted((one, other))
    keys = np.arange(500)
    before = assign_splits(keys, {"train": small, "test": 1 - small}, seed)
    after = assign_splits(keys, {"train": large, "test": 1 - large}, seed)
    assert (after[before == 0] == 0).all()


@pytest.mark.parametrize(
    "shares", [SHARES, {"train": 0.5, "validation": 0.25, "test": 0.25}, {"train": 1 / 3, "test": 2 / 3}]
)
def test_shares_are_honoured(shares):
    n = 200_000
    found = np.bincount(assign_splits(np.arange(n), shares, 3), minlength=3) / n
    for name, share in zip(SPLITS, found, strict=True):
        wanted = shares.get(name, 0.0)
        assert abs(share - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / n)


@pytest.mark.parametrize("name", SPLITS)
def test_a_share_of_one_takes_every_row(name):
    assert set(assign_splits(np.arange(10_000), {name: 1.0}, 0)) == {split_code(name)}


def test_seeds_give_independent_splits():
    one, other = (assign_splits(np.arange(50_000), {"train": 0.5, "test": 0.5}, seed) for seed in (1, 2))
    assert 0.48 < (one == other).mean() < 0.52


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"train": 0.8, "dev": 0.2}, r"splits \['dev'\] are unknown; use train, validation, test"),
        ({"train": 0.8, "test": 0.1}, "must be at least 0 and add up to 1"),
        ({"train": 1.2, "test": -0.2}, r"'test': -0.2.* must be at least 0"),
        ({"train": float("nan"), "test": 0.5}, "must be at least 0 and add up to 1"),
        ({}, "must be at least 0 and add up to 1"),
    ],
)
def test_shares_that_cannot_be_used_are_refused(shares, words):
    with pytest.raises(ConfigError, match=words):
        assign_splits(np.arange(4), shares, 0)


def test_an_unknown_split_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="split 'dev' is unknown; use one of train, validation, test"):
        split_code("dev")


@given(st.lists(st.integers(0, 2), max_size=200))
def test_codes_survive_being_written(codes):
    codes = np.array(codes, np.uint8)
    found = decode_splits(encode_splits(codes))
    assert found.dtype == np.uint8
    assert np.array_equal(found, codes)


def test_codes_are_read_without_copying_them():
    raw = encode_splits(np.arange(5000, dtype=np.uint8) % 3)
    found = decode_splits(raw)
    assert np.shares_memory(found, np.frombuffer(raw, np.uint8))


def test_a_flipped_bit_never_moves_a_row():
    codes = np.arange(40, dtype=np.uint8) % 3
    raw = encode_splits(codes)
    refused = 0
    for position in range(len(raw)):
        flipped = bytearray(raw)
        flipped[position] ^= 1
        try:
            found = decode_splits(bytes(flipped))
        except CorruptDataError:
            refused += 1
        else:  # in padding, or in what Arrow does not need
            assert np.array_equal(found, codes), position
    assert refused > 150


def test_codes_without_a_digest_are_refused():
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"split": pa.array([0, 1], pa.uint8())})
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    raw = sink.getvalue().to_pybytes()
    with pytest.raises(CorruptDataError, match="carry no digest"):
        decode_splits(raw)
    assert decode_splits(raw, verify=False).tolist() == [0, 1]


def test_samples_that_moved_across_splits_are_named():
    earlier = np.array([0, 1, 2, 0], np.uint8)
    check_splits_stable(earlier, np.array([0, 1, 2, 0, 1, 1], np.uint8))
    with pytest.raises(CorruptDataError, match=r"2 of 4 samples moved .* is sample 2, from test to train: set dataset"):
        check_splits_stable(earlier, np.array([0, 1, 0, 1, 1], np.uint8))
    with pytest.raises(CorruptDataError, match="splits of 3 samples, the earlier one of 4; it does not extend it"):
        check_splits_stable(earlier, earlier[:3])
