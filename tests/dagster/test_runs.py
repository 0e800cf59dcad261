"""The jobs on a real instance: they publish, they are held back by a failed check, and staleness follows the recipe."""

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.loader import LoadingContextForTest
from dagster_world import execute, location, materialized, world

from assets.keys import CURRENT, EVENTS, FORECAST, OBJECTS, PLAN, RECIPE, TRIALS
from dagster_project.schedules import nightly_evaluation

FIRST, SECOND, BROKEN = "demo.e000000", "demo.e000002", "demo.e000004"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An instance and a world after bootstrap and one re-shard, both run as jobs."""
    folder = tmp_path_factory.mktemp("location")
    path = world.make_world(folder)
    patch = pytest.MonkeyPatch()
    patch.setenv("FORESHARD_CONFIG", str(path))
    with dg.instance_for_test(temp_dir=str(folder)) as instance:
        chain = world.prepared_chain(path)
        world.register(chain)
        first = execute(instance, "bootstrap", FIRST)
        for epoch in (1, 2):
            world.train_epoch(chain, epoch)
        second = execute(instance, "reshard", SECOND)
        yield instance, path, first, second
    patch.undo()


def test_jobs_publish_and_every_check_passes(trained):
    instance, path, first, second = trained
    assert first.success
    assert second.success
    assert materialized(instance, CURRENT) == {FIRST, SECOND}
    assert world.open_chain(path).repository.current().ref.generation == SECOND
    checks = second.get_asset_check_evaluations()
    assert len(checks) == 7
    assert all(check.passed and check.partition == SECOND for check in checks)


def test_materialisations_carry_data_versions_figures_tables_and_plots(trained):
    instance, path, _, _ = trained
    (record,) = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=PLAN, asset_partitions=[SECOND]), limit=1
    ).records
    event = record.asset_materialization
    assert event.tags["dagster/data_version"]
    assert event.metadata["decision"].value == "reshard"
    assert isinstance(event.metadata["candidates"], dg.TableMetadataValue)
    assert event.metadata["plot_plan"].value.startswith("![plan](data:image/png;base64,")
    assert sum(len(str(value.value)) for value in event.metadata.values()) < 150_000
    plan = world.open_chain(path).repository.open().header.plan_digest
    assert plan.startswith(event.metadata["digest"].value)


def test_failed_check_keeps_everything_downstream_from_running(trained):
    instance, path, _, _ = trained
    chain = world.open_chain(path)
    world.train_epoch(chain, 3)
    log = world.train_epoch(chain, 4).logs[0]
    whole = chain.store.get(log.key)
    chain.store.put(log.key, whole[:-9])
    before = chain.repository.current()
    result = execute(instance, "reshard", BROKEN)
    assert not result.success
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.partition, check.asset_key) == (False, BROKEN, EVENTS)
    assert log.key in check.description
    assert BROKEN in materialized(instance, EVENTS)
    for key in (FORECAST, PLAN, OBJECTS, CURRENT):
        assert BROKEN not in materialized(instance, key), key
    assert chain.repository.current() == before
    chain.store.put(log.key, whole)
    assert execute(instance, "reshard", BROKEN).success
    assert chain.repository.current().ref.generation == BROKEN


def test_refused_input_fails_at_once_with_the_fix(tmp_path, monkeypatch):
    monkeypatch.setenv("FORESHARD_CONFIG", str(world.make_world(tmp_path, dataset={"target": "absent"})))
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        result = execute(instance, "bootstrap", FIRST)
    assert not result.success
    failures = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    assert any("no column 'absent'" in str(event.event_specific_data.error_display_string) for event in failures)
    assert not [event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]


def test_changed_recipe_makes_every_plan_stale_until_it_is_made_again(trained, monkeypatch):
    instance, path, _, _ = trained
    assert _status(instance, PLAN, SECOND) == "FRESH"
    other = world.write_config(path.parent, reshard={"weight_consistency": 3.0})
    monkeypatch.setenv("FORESHARD_CONFIG", str(other))
    recipe = dg.materialize([*location().assets], instance=instance, selection=[RECIPE], resources=_resources())
    assert recipe.success
    assert _status(instance, PLAN, FIRST) == "STALE"
    assert _status(instance, PLAN, SECOND) == "STALE"
    assert _status(instance, TRIALS, None) == "FRESH"
    again = dg.materialize(
        [*location().assets], instance=instance, selection=[PLAN], partition_key=SECOND, resources=_resources()
    )
    assert again.success
    assert _status(instance, PLAN, FIRST) == "STALE"
    assert _status(instance, PLAN, SECOND) == "FRESH"


def test_nightly_evaluation_forecasts_the_newest_generation_and_publishes_nothing(trained):
    instance, path, _, _ = trained
    request = nightly_evaluation(dg.build_schedule_context(instance))
    assert request.partition_key == max(materialized(instance, EVENTS))
    before = world.open_chain(path).repository.current()
    result = execute(instance, "evaluate", request.partition_key)
    assert result.success
    assert {event.asset_key for event in result.get_asset_materialization_events()} == {FORECAST}
    assert world.open_chain(path).repository.current() == before


def test_nightly_evaluation_skips_where_nothing_was_logged():
    with dg.instance_for_test() as instance:
        assert isinstance(nightly_evaluation(dg.build_schedule_context(instance)), dg.SkipReason)


def _resources():
    return location().resources


def _status(instance, key, partition):
    graph = location().resolve_asset_graph()
    context = LoadingContextForTest(instance)
    with partition_loading_context(dynamic_partitions_store=instance):
        return CachingStaleStatusResolver(instance, graph, context).get_status(key, partition).value
