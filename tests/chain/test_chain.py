"""The chain from a source to a published layout and through re-shards, without an orchestrator."""

import numpy as np
import pytest
from chain_world import (
    make_world,
    open_chain,
    prepared_chain,
    register,
    train_epoch,
    trained_world,
    write_config,
    write_source,
)

from foreshard.chain.access import STAGE_FORECAST
from foreshard.errors import ConfigError, ForeshardError, SourceError, StorageError
from foreshard.forecast.backtest import BASELINES, METRICS
from foreshard.forecast.registry import DEFAULT_NAMES
from foreshard.splits import split_code


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A world after its first layout, two epochs and a re-shard, and the chain's reports."""
    world = trained_world(tmp_path_factory)
    return world.path, world.prepared, world.first, world.second


def _objects(chain):
    return {meta.key: chain.store.get(meta.key) for meta in chain.store.list("")}


def test_first_layout_holds_every_row_once_and_is_published(trained):
    path, _, first, _ = trained
    chain = open_chain(path)
    ref = next(iter(chain.repository.layouts("demo.e000000")))
    report = chain.repository.verify(ref)
    assert report.ok, report
    assert first["publish"].metadata["current"] == "demo.e000000"
    assert first["publish"].metadata["changed"] is True
    assert first["plan"].metadata["decision"] == "bootstrap"


def test_reshard_publishes_a_layout_learnt_from_the_log(trained):
    path, _, _, second = trained
    chain = open_chain(path)
    manifest = chain.repository.open()
    assert manifest.ref.generation == "demo.e000002"
    assert second["plan"].metadata["decision"] == "reshard", second["plan"].metadata["reason"]
    train = manifest.splits == split_code("train")
    order = np.argsort(manifest.access_counts[train])[::-1]
    drawn, rows = manifest.access_counts[train][order], manifest.rows[train][order]
    # A twentieth of the samples takes three quarters of the draws: few chunks hold them now, before all of them did.
    assert drawn[np.cumsum(rows) <= rows.sum() / 10].sum() > 0.7 * drawn.sum()
    assert manifest.scores[train].max() > 0.9
    assert manifest.access_counts.sum() == second["events"].metadata["draws"]


def test_reports_are_small_and_say_what_was_decided(trained):
    _, prepared, first, second = trained
    for result in [*prepared.values(), *first.values(), *second.values()]:
        assert result.data_version
        assert all(isinstance(v, str | int | float | None) for v in result.metadata.values())
        assert all(len(rows) <= 50 for rows in result.tables.values())
        assert all(raw.startswith(b"\x89PNG") and len(raw) <= 30_000 for raw in result.plots.values())
    assert second["plan"].metadata["parent"] == first["plan"].metadata["digest"]
    assert len([name for name in second["scores"].metadata if name.startswith("score_")]) >= 6


def test_a_forecast_is_stored_with_the_scores_of_all_candidates_and_baselines(trained):
    path, _, _, second = trained
    rows = second["forecast"].tables["backtest"]
    assert {row["model"] for row in rows} == {*DEFAULT_NAMES, "prophet", *BASELINES}
    assert [row["model"] for row in rows if row["status"] == "chosen"] == [second["forecast"].metadata["model"]]
    assert all(set(METRICS) <= row.keys() for row in rows)
    assert second["forecast"].metadata["regret"] >= 0
    assert open_chain(path)._context.work("demo.e000002").json("forecast", stage=STAGE_FORECAST)["backtest"] == list(
        rows
    )


def test_running_every_stage_again_changes_no_byte(trained):
    path, prepared, _, second = trained
    chain = open_chain(path)
    before = _objects(chain)
    assert {k: v.data_version for k, v in chain.prepare().items()} == {k: v.data_version for k, v in prepared.items()}
    again = chain.reshard("demo.e000002")
    assert {k: v.data_version for k, v in again.items()} == {k: v.data_version for k, v in second.items()}
    assert again["shards"].metadata["written_bytes"] == 0
    assert again["publish"].metadata["changed"] is False
    assert _objects(chain) == before


def test_older_generation_is_planned_again_but_never_published_over_a_newer_one(trained):
    path, _, _, _ = trained
    chain = open_chain(path)
    again = chain.reshard("demo.e000000")
    assert again["publish"].metadata["changed"] is False
    assert chain.repository.current().ref.generation == "demo.e000002"


def test_generation_stays_pinned_to_its_parent_and_snapshot(trained):
    path, _, first, _ = trained
    chain = open_chain(path)
    inputs = chain.inputs("demo.e000002")
    assert inputs.parent.generation == "demo.e000000"
    assert inputs.parent.plan_digest == first["shards"].metadata["plan_digest"]
    assert inputs.fingerprint == chain.snapshot().fingerprint
    assert chain.inputs("demo.e000000").parent is None


def test_gap_in_the_logs_stops_the_chain_and_leaves_the_layout(tmp_path):
    chain = prepared_chain(make_world(tmp_path))
    register(chain)
    chain.reshard("demo.e000000")
    train_epoch(chain, 2)
    with pytest.raises(ForeshardError, match=r"'events' failed.*epoch 1"):
        chain.reshard("demo.e000002")
    assert chain.repository.current().ref.generation == "demo.e000000"


def test_corrupt_log_is_named_by_the_check(tmp_path):
    chain = prepared_chain(make_world(tmp_path))
    chain.reshard("demo.e000000")
    train_epoch(chain, 1)
    key = train_epoch(chain, 2).logs[0].key
    chain.store.put(key, b"not parquet")
    chain.events("demo.e000002")
    outcome = chain.check("events", "demo.e000002")
    assert not outcome.passed
    assert key in outcome.description


def test_stage_before_its_inputs_says_which_stage_to_run(tmp_path):
    chain = open_chain(make_world(tmp_path))
    with pytest.raises(StorageError, match="run the stage layout/plan"):
        chain.shards("demo.e000000")
    chain.forecast("demo.e000000")
    with pytest.raises(StorageError, match="consistency/trials"):
        chain.scores("demo.e000000")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": {"target": "missing"}}, "no column 'missing'"),
        ({"dataset": {"key": "absent"}}, "no column 'absent'"),
    ],
)
def test_missing_column_is_a_clear_error(tmp_path, changes, message):
    chain = open_chain(make_world(tmp_path, **changes))
    with pytest.raises(SourceError, match=message):
        chain.profile()


def test_empty_source_is_a_clear_error(tmp_path):
    (tmp_path / "source").mkdir()
    chain = open_chain(write_config(tmp_path))
    with pytest.raises(SourceError, match=r"no \.parquet file"):
        chain.profile()


def test_unknown_strategy_is_named_before_any_stage_runs(tmp_path):
    world = make_world(tmp_path, reshard={"strategies": ["hash", "magic"]})
    with pytest.raises(ConfigError, match=r"reshard\.strategies: strategy 'magic' is unknown; use some of contiguous"):
        open_chain(world)


def test_changed_split_settings_are_refused(tmp_path):
    open_chain(make_world(tmp_path)).snapshot()
    other = write_config(tmp_path, dataset={"splits": {"train": 0.5, "validation": 0.25, "test": 0.25}})
    with pytest.raises(ConfigError, match="a row never changes its split"):
        open_chain(other).snapshot()


def test_recipe_digest_changes_with_what_a_reshard_aims_for_only(tmp_path):
    chain = open_chain(make_world(tmp_path))
    recipe = chain.recipe()
    assert chain.store.exists(chain.keys.recipe(recipe.data_version))
    same = open_chain(write_config(tmp_path, loader={"timeout": 5.0, "queue_batches": 3}))
    assert same.recipe().data_version == recipe.data_version
    other = open_chain(write_config(tmp_path, reshard={"weight_time": 2.0}))
    assert other.recipe().data_version != recipe.data_version


def test_appended_files_are_packed_by_the_next_first_layout_only(tmp_path):
    path = make_world(tmp_path)
    chain = prepared_chain(path)
    chain.reshard("demo.e000000")
    before = chain.snapshot()
    old = before.fingerprint
    write_source(tmp_path / "more")
    (tmp_path / "more" / "part-0.parquet").rename(tmp_path / "source" / "a-file-that-sorts-first.parquet")
    chain = open_chain(path)
    assert chain.inputs("demo.e000002").fingerprint == old
    later = chain.inputs("late.e000000")
    assert later.fingerprint == chain.snapshot().fingerprint != old
    assert chain.snapshot().extends(before), "what was there keeps its sample ids"
    assert later.parent is None
