"""The sensor requests one run for each boundary that a training job passed, and says why when it does not."""

import json

import dagster as dg
import pytest
from dagster_world import world

from assets.keys import CURRENT
from dagster_project.sensors import reshard_every_n_epochs
from foreshard.access.markers import register_run
from resources import ProjectResource

EVERY = 4


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def path(tmp_path):
    return world.write_config(tmp_path, reshard={"every": EVERY})


def _mark(path, run, *epochs, **info):
    chain = world.open_chain(path)
    for epoch in epochs:
        if epoch == 0:
            register_run(chain.store, chain.keys, run, info=info)
        else:
            chain.store.put(chain.keys.marker(run, epoch), b"the sensor reads names only")


def _tick(instance, path, cursor=None):
    project = ProjectResource(config_path=str(path))
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"project": project})
    return reshard_every_n_epochs(context)


def _requested(tick):
    return [(request.job_name, request.partition_key, request.run_key) for request in tick.run_requests]


@pytest.mark.parametrize(
    ("epochs", "fired", "job", "boundary"),
    [
        ([0], None, "bootstrap", 0),
        ([0, 1, 2], None, "bootstrap", 0),
        ([0, 1, 2, 3, 4], 0, "reshard", 4),
        ([0, 1, 2, 3, 4, 5], 0, "reshard", 4),
        ([0, 5], 0, "reshard", 4),
        ([0, 4, 9], 4, "reshard", 8),
        ([0, 1, 17], 4, "reshard", 16),
        ([0, 9], None, "reshard", 8),
    ],
)
def test_boundary_that_was_passed_is_requested_in_one_result(instance, path, epochs, fired, job, boundary):
    _mark(path, "demo", *epochs)
    tick = _tick(instance, path, None if fired is None else json.dumps({"demo": fired}))
    key = f"demo.e{boundary:06d}"
    assert _requested(tick) == [(job, key, f"reshard/{key}")]
    assert [request.partition_keys for request in tick.dynamic_partitions_requests] == [[key]]
    assert json.loads(tick.cursor) == {"demo": boundary}
    (observation,) = tick.asset_events
    assert observation.metadata["epoch"].value == max(epochs)


@pytest.mark.parametrize(
    ("epochs", "fired", "reason"),
    [
        ([0, 1, 2, 3], 0, "run demo has finished epoch 3, the next boundary is 4"),
        ([0, 1, 2, 3, 4], 4, "run demo has finished epoch 4, the next boundary is 8"),
        ([0, 3, 4, 7], 4, "run demo has finished epoch 7, the next boundary is 8"),
        ([], None, "no run is registered"),
    ],
)
def test_below_the_next_boundary_nothing_is_requested_or_observed(instance, path, epochs, fired, reason):
    _mark(path, "demo", *epochs)
    tick = _tick(instance, path, None if fired is None else json.dumps({"demo": fired}))
    assert not tick.run_requests
    assert not tick.asset_events
    assert reason in tick.skip_reason.skip_message


def test_marker_that_comes_late_neither_stalls_nor_repeats_a_boundary(instance, path):
    _mark(path, "demo", 0, 1, 2, 4)
    tick = _tick(instance, path, json.dumps({"demo": 0}))
    assert [key for _, key, _ in _requested(tick)] == ["demo.e000004"]
    _mark(path, "demo", 3)
    assert not _tick(instance, path, tick.cursor).run_requests
    _mark(path, "demo", 8)
    assert [key for _, key, _ in _requested(_tick(instance, path, tick.cursor))] == ["demo.e000008"]


def test_a_run_that_has_trained_all_its_epochs_gets_no_layout_that_nobody_would_read(instance, path):
    _mark(path, "demo", 0, 1, 2, 3, 4, epochs=8)
    assert [key for _, key, _ in _requested(_tick(instance, path, json.dumps({"demo": 0})))] == ["demo.e000004"]
    _mark(path, "demo", 5, 6, 7, 8)
    tick = _tick(instance, path, json.dumps({"demo": 4}))
    assert not tick.run_requests
    assert "run demo has trained all of its 8 epochs" in tick.skip_reason.skip_message
    assert json.loads(tick.cursor) == {"demo": 4}


def test_two_runs_have_boundaries_of_their_own(instance, path):
    _mark(path, "alpha", 0, 1, 2, 3, 4)
    _mark(path, "beta", 0, 1)
    tick = _tick(instance, path, json.dumps({"alpha": 0}))
    assert _requested(tick) == [
        ("reshard", "alpha.e000004", "reshard/alpha.e000004"),
        ("bootstrap", "beta.e000000", "reshard/beta.e000000"),
    ]
    assert json.loads(tick.cursor) == {"alpha": 4, "beta": 0}
    assert not _tick(instance, path, tick.cursor).run_requests


def test_run_whose_markers_are_gone_leaves_the_cursor(instance, path):
    _mark(path, "beta", 0)
    tick = _tick(instance, path, json.dumps({"alpha": 8, "beta": 0}))
    assert json.loads(tick.cursor) == {"beta": 0}


def test_wiped_cursor_asks_for_the_same_run_key_and_so_for_no_second_run(instance, path):
    _mark(path, "demo", 0, 1, 2, 3, 4)
    first = _tick(instance, path, json.dumps({"demo": 0}))
    again = _tick(instance, path, None)
    assert _requested(first) == _requested(again)


def test_published_generation_is_not_requested_again(instance, path):
    _mark(path, "demo", 0, 1, 2, 3, 4)
    instance.report_runless_asset_event(dg.AssetMaterialization(CURRENT, partition="demo.e000004"))
    tick = _tick(instance, path, None)
    assert not tick.run_requests
    assert "demo.e000004 is published already" in tick.skip_reason.skip_message
    assert json.loads(tick.cursor) == {"demo": 4}


def test_missing_configuration_is_a_clear_error(instance, tmp_path):
    with pytest.raises(Exception, match=r"nowhere\.yaml cannot be read"):
        _tick(instance, tmp_path / "nowhere.yaml")
