import json
from dataclasses import replace

import pytest
from access_world import KEYS, RUN, mark, new_store, train

from foreshard.access.markers import EpochMarker, list_markers, list_runs, read_marker, register_run, write_marker
from foreshard.errors import ConfigError, LogError, ObjectNotFoundError


def test_json_round_trip_keeps_everything():
    marker = replace(train(new_store(), 5), info={"seed": 7, "host": "a"})
    assert EpochMarker.from_json(marker.to_json()) == marker


def test_a_retried_put_whose_response_was_lost_is_ours():
    store = new_store()
    marker = train(store, 1)
    mark(store, marker)
    assert write_marker(store, KEYS, marker) == marker


def test_the_first_attempt_to_finish_an_epoch_stands():
    store = new_store()
    first, second = train(store, 1, write_id="first"), train(store, 1, write_id="second")
    assert write_marker(store, KEYS, first).write_id == "first"
    assert write_marker(store, KEYS, second) == first
    assert read_marker(store, KEYS, RUN, 1) == first


def test_registering_again_returns_the_first_registration():
    store = new_store()
    first = register_run(store, KEYS, RUN, info={"seed": 1})
    assert first.epoch == 0
    assert first.logs == ()
    assert register_run(store, KEYS, RUN, info={"seed": 2}).info == {"seed": 1}
    assert list_markers(store, KEYS, RUN) == [first]


def test_a_run_name_that_may_not_stand_in_a_key_is_refused():
    with pytest.raises(ConfigError, match="run name 'a/b'"):
        register_run(new_store(), KEYS, "a/b", info={})


def test_markers_are_listed_by_epoch_beyond_six_digits():
    store = new_store()
    for epoch in (1_000_000, 2, 10, 999_999):
        mark(store, replace(train(new_store(), 1), epoch=epoch))
    assert [marker.epoch for marker in list_markers(store, KEYS, RUN)] == [2, 10, 999_999, 1_000_000]
    assert [marker.epoch for marker in list_markers(store, KEYS, RUN, after=10)] == [999_999, 1_000_000]


def test_objects_of_other_names_are_no_markers():
    store = new_store()
    store.create(KEYS.markers(RUN) + "notes.txt", b"hello")
    assert list_markers(store, KEYS, RUN) == []
    assert list_runs(store, KEYS) == []


def test_runs_are_those_that_left_a_marker():
    store = new_store()
    for run in ("b", "a"):
        register_run(store, KEYS, run, info={})
    train(store, 1)
    assert list_runs(store, KEYS) == ["a", "b"]


def test_an_unmarked_epoch_is_not_found():
    with pytest.raises(ObjectNotFoundError, match="e000004"):
        read_marker(new_store(), KEYS, RUN, 4)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-3],
        lambda _: "[]",
        lambda text: json.dumps({**json.loads(text), "format": 99}),
        lambda text: json.dumps({**json.loads(text), "world_size": -1}),
        lambda text: json.dumps({**json.loads(text), "draws": "many"}),
        lambda text: json.dumps({**json.loads(text), "logs": [{"kind": "secret"}]}),
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "steps"}),
    ],
)
def test_a_damaged_marker_is_named_with_the_fix(damage):
    store = new_store()
    store.create(KEYS.marker(RUN, 1), damage(train(new_store(), 1).to_json()).encode())
    with pytest.raises(LogError, match=r"flights/runs/demo/epochs/e000001\.json.*train epoch 1 again"):
        list_markers(store, KEYS, RUN)


def test_a_marker_under_another_epochs_key_is_refused():
    store = new_store()
    store.create(KEYS.marker(RUN, 2), train(new_store(), 1).to_json().encode())
    with pytest.raises(LogError, match=r"e000002.*belongs to run 'demo', epoch 1"):
        read_marker(store, KEYS, RUN, 2)
