"""Which window a generation consumes and which boundary is due."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshard.chain import due_boundary, marker_epochs, window
from foreshard.errors import ConfigError
from foreshard.keys import DatasetKeys
from foreshard.storage import ObjectStore


@pytest.mark.parametrize(
    ("generation", "every", "epochs"),
    [
        ("demo.e000000", 4, []),
        ("demo.e000004", 4, [1, 2, 3, 4]),
        ("demo.e000008", 4, [5, 6, 7, 8]),
        ("demo.e000003", 1, [3]),
        ("demo.e1000000", 2, [999_999, 1_000_000]),
    ],
)
def test_window_follows_from_the_key(generation, every, epochs):
    assert list(window(generation, every)) == epochs


@pytest.mark.parametrize("generation", ["demo.e000005", "demo", "demo.e4", "a b.e000004"])
def test_key_off_a_boundary_or_malformed_is_refused(generation):
    with pytest.raises(ConfigError, match="generation"):
        window(generation, 4)


@given(st.integers(1, 50), st.integers(1, 12))
def test_windows_of_consecutive_generations_partition_the_epochs(boundaries, every):
    keys = [f"r.e{number * every:06d}" for number in range(boundaries + 1)]
    consumed = [epoch for key in keys for epoch in window(key, every)]
    assert consumed == list(range(1, boundaries * every + 1))


@pytest.mark.parametrize(
    ("epochs", "fired", "due"),
    [
        ([], -1, None),
        ([0], -1, 0),
        ([0, 1, 2, 3], -1, 0),
        ([1, 2, 3], 0, None),
        ([1, 2, 3, 4], 0, 4),
        ([1, 2, 3, 4, 5], 0, 4),
        ([4], 0, 4),
        ([5, 6], 4, None),
        ([5, 9], 4, 8),
        ([17], 4, 16),
        ([3, 17, 5], 4, 16),
    ],
)
def test_the_newest_marker_decides_which_boundary_is_due(epochs, fired, due):
    assert due_boundary(epochs, 4, fired) == due


@pytest.mark.parametrize(("planned", "due"), [(None, 8), (12, 8), (9, 8), (8, None), (4, None)])
def test_a_boundary_that_no_planned_epoch_follows_is_not_due(planned, due):
    assert due_boundary([5, 6, 7, 8], 4, 4, planned=planned) == due


@given(st.lists(st.integers(0, 200), max_size=60), st.integers(1, 9))
def test_a_run_seen_marker_by_marker_fires_each_boundary_once_and_in_order(epochs, every):
    fired, history = -1, []
    for seen in range(1, len(epochs) + 1):
        due = due_boundary(epochs[:seen], every, fired)
        if due is not None:
            history.append(due)
            fired = due
    assert history == sorted(set(history))
    assert not epochs or history[-1] == max(epochs) // every * every


def test_marker_epochs_lists_names_after_an_epoch_and_passes_over_other_objects():
    store, keys = ObjectStore.open("memory://"), DatasetKeys("data")
    for epoch in (0, 1, 4, 12, 1_000_000):
        store.put(keys.marker("demo", epoch), b"not read")
    store.put(keys.markers("demo") + "notes.txt", b"")
    store.put(keys.marker("demo2", 7), b"")
    assert marker_epochs(store, keys, "demo") == [0, 1, 4, 12, 1_000_000]
    assert marker_epochs(store, keys, "demo", after=4) == [12, 1_000_000]
    assert marker_epochs(store, keys, "other") == []
