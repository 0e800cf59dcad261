"""Seeds, keys and permutations: the same bits for ever, and as random as they claim."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshard.errors import ConfigError
from foreshard.seeding import (
    ALGORITHM_VERSION,
    Origin,
    PrngState,
    canonical_bytes,
    derive_seed,
    derive_seeds,
    permutation,
    philox4x32,
    row_keys,
    row_keys_of,
    uniforms,
)

GOLDEN = json.loads(Path(__file__).with_name("golden_seeding.json").read_text())
SEED = bytes.fromhex(GOLDEN["row_keys"]["seed"])
KINDS = {"str": str, "int": int, "bool": bool, "bytes": bytes.fromhex}

seeds = st.binary(min_size=16, max_size=16)
fields = st.dictionaries(
    st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=12), st.binary(max_size=12), st.booleans())
)


def _sha256(values, dtype):
    return hashlib.sha256(np.ascontiguousarray(values, dtype).tobytes()).hexdigest()


# -- golden vectors ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, words):
    found = philox4x32(np.array([counter, counter], np.uint32), key)
    assert found.dtype == np.uint32
    assert found.tolist() == [list(words)] * 2


@pytest.mark.parametrize("case", GOLDEN["derive_seed"])
def test_seeds_and_their_canonical_bytes_never_change(case):
    named = {name: KINDS[kind](value) for name, kind, value in case["fields"]}
    assert canonical_bytes(named).hex() == case["canonical"]
    assert derive_seed(**named).hex() == case["seed"]


def test_seeds_of_many_values_and_keys_of_many_seeds_never_change():
    golden = GOLDEN["derive_seeds"]
    values = np.frombuffer(bytes.fromhex("".join(golden["values"])), np.uint8).reshape(-1, 16)
    found = derive_seeds(golden["name"], values, **golden["fields"])
    assert [row.tobytes().hex() for row in found] == golden["seeds"]
    keys = row_keys_of(found, np.array(golden["which"]), np.array(golden["sample_ids"], np.int64))
    assert [f"{key:016x}" for key in keys] == golden["keys"]


def test_row_keys_and_uniforms_never_change():
    golden = GOLDEN["row_keys"]
    ids = np.array(golden["sample_ids"], np.int64)
    assert [f"{key:016x}" for key in row_keys(SEED, ids)] == golden["keys"]
    assert _sha256(row_keys(SEED, np.arange(golden["n_big"])), "<u8") == golden["sha256_big"]
    golden = GOLDEN["uniforms"]
    found = uniforms(SEED, np.array(golden["positions"], np.int64))
    assert [float(value).hex() for value in found] == golden["values"]


def test_permutations_never_change():
    golden = GOLDEN["permutation"]
    order, after = permutation(PrngState(SEED, golden["position"]), golden["n"])
    assert order.tolist() == golden["order"]
    assert after.to_json() == golden["state"]
    assert _sha256(permutation(PrngState(SEED), golden["n_big"])[0], "<i8") == golden["sha256_big"]


@pytest.mark.slow
def test_the_golden_file_holds_under_at_least_four_numpy_versions():
    """In virtual environments that the tool makes; that none can be made is a failure, as nothing is then known."""
    tool = Path(__file__).resolve().parents[2] / "tools" / "golden_over_numpy.py"
    done = subprocess.run([sys.executable, str(tool)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert all(result == "ok" for _, _, result in rows)
    assert len({version for version, _, _ in rows}) >= 4


def test_the_golden_file_is_of_this_algorithm_version():
    assert GOLDEN["algorithm_version"] == ALGORITHM_VERSION


# -- seeds ---------------------------------------------------------------------------------------------
@given(fields, fields)
def test_only_equal_fields_have_equal_canonical_bytes(first, second):
    same = {k: (type(v), v) for k, v in first.items()} == {k: (type(v), v) for k, v in second.items()}
    assert (canonical_bytes(first) == canonical_bytes(second)) == same


@given(fields)
def test_the_order_in_which_fields_are_given_does_not_matter(named):
    assert canonical_bytes(named) == canonical_bytes(dict(reversed(named.items())))


def test_values_that_look_alike_in_text_give_different_seeds():
    assert len({derive_seed(x=value) for value in (1, "1", b"1", True, "True", 0, False, "", b"")}) == 9
    assert derive_seed(ab="c") != derive_seed(a="bc")


@pytest.mark.parametrize(
    "change",
    [{"purpose": "split"}, {"root": 43}, {"fingerprint": "abd"}, {"epoch": 4}, {"extra": ""}],
    ids=lambda change: next(iter(change)),
)
def test_changing_one_field_flips_about_half_of_the_seeds_bits(change):
    flipped = 0
    for i in range(50):
        base = {"purpose": "shuffle", "root": 42, "fingerprint": "abc", "epoch": 3, "case": i}
        before, after = (int.from_bytes(derive_seed(**named)) for named in (base, {**base, **change}))
        flipped += (before ^ after).bit_count()
    assert 0.47 < flipped / (50 * 128) < 0.53


@pytest.mark.parametrize("value", [1.5, None, np.int64(3), ["a"]])
def test_a_field_of_another_type_is_refused_by_name(value):
    with pytest.raises(ConfigError, match=r"seed field 'epoch' is .*; use an int, str, bytes or bool"):
        derive_seed(epoch=value)


@given(fields, st.text(max_size=8), st.integers(0, 20), st.integers(0, 5), st.data())
def test_many_seeds_at_once_are_the_seeds_one_by_one(named, name, width, n, data):
    named = {key: value for key, value in named.items() if key not in (name, "name", "values")}
    raw = data.draw(st.binary(min_size=n * width, max_size=n * width))
    values = np.frombuffer(raw, np.uint8).reshape(n, width)
    found = derive_seeds(name, values, **named)
    if name != "algorithm_version":
        assert [row.tobytes() for row in found] == [derive_seed(**{**named, name: v.tobytes()}) for v in values]


def test_many_seeds_do_not_depend_on_the_size_of_blocks():
    values = np.arange(40_000 * 2, dtype=np.uint32).view(np.uint8).reshape(-1, 8)
    found = derive_seeds("x", values, root=1)
    for at in (0, 16_383, 16_384, 39_999):
        assert found[at].tobytes() == derive_seed(x=values[at].tobytes(), root=1)


def test_an_origin_survives_json_and_a_malformed_one_is_refused():
    origin = Origin("abc", "hotness", -7)
    raw = json.loads(json.dumps(origin.to_json()))
    assert Origin.from_json(raw) == origin
    with pytest.raises(ConfigError, match="is malformed"):
        Origin.from_json({"fingerprint": "abc", "strategy": "hotness"})
    with pytest.raises(ConfigError, match="integer root_seed"):
        Origin.from_json({**raw, "root_seed": "7"})


# -- row keys ------------------------------------------------------------------------------------------
@given(seeds, st.lists(st.integers(0, 2**63 - 1), max_size=40), st.integers(0, 40))
def test_a_rows_key_depends_on_its_id_alone(seed, ids, cut):
    ids = np.array(ids, np.int64)
    whole = row_keys(seed, ids)
    parts = np.concatenate([row_keys(seed, ids[:cut]), row_keys(seed, ids[cut:])])
    assert np.array_equal(whole, parts)
    assert np.array_equal(whole[::-1], row_keys(seed, ids[::-1]))


def test_keys_do_not_depend_on_how_many_are_made_at_once():
    ids = np.arange(200_003, dtype=np.int64)
    whole = row_keys(SEED, ids)
    for size in (1 << 16, 50_000, 131_073):
        parts = [row_keys(SEED, ids[start : start + size]) for start in range(0, len(ids), size)]
        assert np.array_equal(whole, np.concatenate(parts))


@given(st.lists(seeds, min_size=1, max_size=5), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2**63 - 1))))
def test_keys_of_many_seeds_at_once_are_the_keys_of_each(some, rows):
    which = np.array([at % len(some) for at, _ in rows], np.int64)
    ids = np.array([sample for _, sample in rows], np.int64)
    found = row_keys_of(np.frombuffer(b"".join(some), np.uint8).reshape(-1, 16), which, ids)
    assert found.tolist() == [int(row_keys(some[w], ids[i : i + 1])[0]) for i, w in enumerate(which.tolist())]


def test_every_byte_of_the_seed_counts():
    ids = np.arange(8)
    found = {row_keys(SEED, ids).tobytes()}
    for at in range(16):
        other = bytearray(SEED)
        other[at] ^= 1
        found.add(row_keys(bytes(other), ids).tobytes())
    assert len(found) == 17


def test_keys_of_many_rows_are_all_different():
    assert len(np.unique(row_keys(SEED, np.arange(1_000_000)))) == 1_000_000


@pytest.mark.parametrize("length", [0, 8, 15, 17, 32])
def test_a_seed_of_another_length_is_refused(length):
    with pytest.raises(ConfigError, match=f"has {length} bytes; it needs 16"):
        row_keys(bytes(length), np.arange(3))
    with pytest.raises(ConfigError, match=f"has {length} bytes; it needs 16"):
        PrngState(bytes(length))


def _chi_square(counts):
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("shift", [56, 28, 0], ids=["upper bits", "middle bits", "lower bits"])
def test_keys_are_uniform_in_every_part(shift):
    keys = row_keys(derive_seed(purpose="test"), np.arange(500_000))
    counts = np.bincount(((keys >> np.uint64(shift)) & np.uint64(255)).astype(np.int64), minlength=256)
    # 255 degrees of freedom: mean 255, deviation 22.6; the bounds are those of p = 0.001 and 0.999.
    assert 190 < _chi_square(counts) < 330


def test_uniforms_fill_the_unit_interval_evenly():
    values = uniforms(derive_seed(purpose="test"), np.arange(500_000))
    assert values.dtype == np.float64
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.bincount((values * 256).astype(np.int64), minlength=256)
    assert 190 < _chi_square(counts) < 330


# -- permutations --------------------------------------------------------------------------------------
@given(seeds, st.integers(0, 2**40), st.integers(0, 300))
def test_a_permutation_holds_every_position_once_and_says_where_the_stream_stands(seed, position, n):
    order, after = permutation(PrngState(seed, position), n)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))
    assert after == PrngState(seed, position + n)


@given(seeds, st.integers(1, 50), st.integers(1, 50))
def test_a_stream_goes_on_where_it_was_left(seed, first, second):
    _, state = permutation(PrngState(seed), first)
    resumed = PrngState.from_json(json.loads(json.dumps(state.to_json())))
    assert resumed == state
    keys = row_keys(seed, np.arange(first, first + second))
    assert permutation(resumed, second)[0].tolist() == np.argsort(keys, kind="stable").tolist()


def test_every_position_is_as_likely_for_every_thing():
    n, rounds = 12, 4000
    counts = np.zeros((n, n), np.int64)
    state = PrngState(derive_seed(purpose="test"))
    for _ in range(rounds):
        order, state = permutation(state, n)
        counts[np.arange(n), order] += 1
    # 121 degrees of freedom: the bounds are those of p = 0.001 and 0.999.
    assert 77 < _chi_square(counts) < 176


def test_a_negative_number_of_things_is_refused():
    with pytest.raises(ConfigError, match="a permutation of -1 things"):
        permutation(PrngState(SEED), -1)
    with pytest.raises(ConfigError, match="PRNG position -1 is not in 0"):
        PrngState(SEED, -1)


@pytest.mark.parametrize("position", [0, 2**53 + 1, 2**62])
def test_a_state_survives_json_exactly(position):
    state = PrngState(SEED, position)
    text = json.dumps(state.to_json())
    assert PrngState.from_json(json.loads(text)) == state
    assert all(isinstance(value, str) for value in json.loads(text).values())


@pytest.mark.parametrize(
    "change", [{"algorithm": "mt19937"}, {"seed": "xyz"}, {"seed": "00ff"}, {"position": "1.5"}, {"position": None}]
)
def test_a_malformed_state_is_refused(change):
    state = {k: v for k, v in {**PrngState(SEED).to_json(), **change}.items() if v is not None}
    with pytest.raises(ConfigError):
        PrngState.from_json(state)
