"""Object keys are built from checked names only, and stay below their dataset."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshard.errors import ConfigError
from foreshard.keys import DatasetKeys, LayoutRef, check_name, generation_key, parse_generation_key

KEYS = DatasetKeys("demo")
DIGEST = "0123456789abcdef" * 2
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,30}", fullmatch=True)
BAD_NAMES = [
    "",
    ".",
    "..",
    "a/b",
    "a b",
    "a.b",
    "-a",
    "_a",
    "a\n",
    "ä",
    "a\x00",
    "a,b",
    "a" * 129,
    "../x",
    "e000001/..",
]


@given(NAMES, st.integers(0, 10**9))
def test_a_generation_key_says_its_run_and_epoch(run, epoch):
    assert parse_generation_key(generation_key(run, epoch)) == (run, epoch)


def test_generation_keys_sort_by_epoch():
    assert generation_key("demo", 4) == "demo.e000004"
    assert generation_key("demo", 999_999) < generation_key("other", 0)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "demo",
        "demo.e4",
        "demo.e00004",
        "demo.e0000004",
        "demo.e-00004",
        ".e000004",
        "de.mo.e000004",
        "demo.e000004\n",
    ],
)
def test_what_is_no_generation_key_is_refused_with_an_example(key):
    with pytest.raises(ConfigError, match=r"is not '<run>\.e<epoch>' .*, like 'demo\.e000004'"):
        parse_generation_key(key)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_leave_their_place_are_refused(name):
    for ask in (
        lambda: check_name(name, "run"),
        lambda: DatasetKeys(name),
        lambda: generation_key(name, 0),
        lambda: KEYS.markers(name),
        lambda: KEYS.log("run", 1, 0, name, "events"),
    ):
        with pytest.raises(ConfigError, match="is not usable: use 1 to 128 letters, digits"):
            ask()


@pytest.mark.parametrize("name", ["", "..", "../current.json", "a/../b", "a//b", "/a", "a/", ".hidden", "a\nb", "a b"])
def test_parts_of_a_layout_cannot_leave_it(name):
    for ask in (lambda: KEYS.work("demo.e000004", name), lambda: KEYS.layout("demo.e000004", DIGEST, name)):
        with pytest.raises(ConfigError, match=r"object name .* is not usable"):
            ask()


@pytest.mark.parametrize("digest", ["", "abc", "../" + DIGEST, DIGEST.upper(), "g" * 32, "a" * 65])
def test_what_is_no_digest_is_refused(digest):
    for ask in (
        lambda: KEYS.snapshot(digest),
        lambda: KEYS.splits(digest),
        lambda: KEYS.profile(digest),
        lambda: KEYS.trials(digest),
        lambda: KEYS.predictor(digest),
        lambda: KEYS.recipe(digest),
        lambda: KEYS.shard(digest),
        lambda: KEYS.layout("demo.e000004", digest, "manifest.json"),
    ):
        with pytest.raises(ConfigError, match="is not 16 to 64 lower-case hexadecimal digits"):
            ask()


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: generation_key("demo", -1), "epoch -1 is negative"),
        (lambda: KEYS.marker("demo", -1), "epoch -1 is negative"),
        (lambda: KEYS.log("demo", -1, 0, "w", "events"), "epoch -1 is negative"),
        (lambda: KEYS.log("demo", 1, -1, "w", "events"), "rank -1 is negative"),
        (
            lambda: KEYS.log("demo", 1, 0, "w", "gradients"),
            "log kind 'gradients' is unknown; use one of events, samples",
        ),
    ],
)
def test_numbers_and_kinds_that_cannot_be_are_refused(ask, words):
    with pytest.raises(ConfigError, match=words):
        ask()


def test_every_key_lies_below_its_dataset_and_none_inside_another():
    keys = [
        KEYS.snapshot(DIGEST),
        KEYS.splits(DIGEST),
        KEYS.profile(DIGEST),
        KEYS.trials(DIGEST),
        KEYS.predictor(DIGEST),
        KEYS.recipe(DIGEST),
        KEYS.work("demo.e000004", "events.parquet"),
        KEYS.layout("demo.e000004", DIGEST, "manifest.json"),
        KEYS.layout("demo.e000004", DIGEST, "prefetch/node-0.arrow"),
        KEYS.shard(DIGEST),
        KEYS.current,
        KEYS.marker("run", 0),
        KEYS.marker("run", 4),
        KEYS.log("run", 4, 0, "w1", "events"),
        KEYS.log("run", 4, 0, "w1", "samples"),
        KEYS.log("run", 4, 1, "w1", "events"),
    ]
    assert len(set(keys)) == len(keys)
    assert all(key.startswith("demo/") for key in keys)
    # On a local folder an object cannot also be the folder of others.
    assert not [(a, b) for a in keys for b in keys if b.startswith(a + "/")]
    assert KEYS.marker("run", 4).startswith(KEYS.markers("run"))
    assert KEYS.markers("run").startswith(KEYS.runs)


def test_the_key_of_a_layouts_object_tells_its_layout_and_nothing_else_is_taken_for_one():
    keys = DatasetKeys("data")
    key = keys.layout("demo.e000004", "ab" * 16, "prefetch/node-0.arrow")
    assert keys.parse_layout(key) == (LayoutRef("demo.e000004", "ab" * 16), "prefetch/node-0.arrow")
    others = (
        "data2/" + key[5:],
        key[5:],
        "data/layouts/demo.e000004/x",
        f"data/layouts/../{'ab' * 16}/x",
        key + "/..",
        "",
    )
    assert [keys.parse_layout(other) for other in others] == [None] * len(others)
