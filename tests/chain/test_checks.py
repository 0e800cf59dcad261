"""Each check passes on what its stage wrote, and fails on what must not be published, naming it."""

import numpy as np
import pyarrow as pa
import pytest
from chain_world import FIRST, SECOND, copy_of, trained_world

from foreshard.chain.chain import CHECKS
from foreshard.prefetch.manifest import read_prefetch, write_prefetch


@pytest.fixture
def chain(tmp_path_factory, tmp_path):
    return copy_of(trained_world(tmp_path_factory), tmp_path / "copy")


def _replace(table: pa.Table, name: str, values) -> pa.Table:
    position = table.schema.get_field_index(name)
    return table.set_column(position, table.schema.field(position), pa.array(values, table.schema.field(position).type))


def _edit(chain, name, column, change, generation=SECOND):
    """Change one column of an intermediate table."""
    work = chain._context.work(generation)
    table = work.table(name, stage="any")
    work.put_table(name, _replace(table, column, change(table.column(column).to_numpy().copy())))


def _set(position, value):
    def change(values):
        values[position] = value
        return values

    return change


@pytest.mark.parametrize("generation", [FIRST, SECOND])
@pytest.mark.parametrize("stage", CHECKS)
def test_checks_pass_on_what_the_stages_wrote(chain, stage, generation):
    outcome = chain.check(stage, generation)
    assert outcome.passed, outcome.description


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_expected_draws_must_be_finite_and_not_negative(chain, value):
    train = np.flatnonzero(chain.repository.load_splits(chain.inputs(SECOND).fingerprint) == 0)
    _edit(chain, "heat", "heat", _set(train[3], value))
    outcome = chain.check("forecast", SECOND)
    assert not outcome.passed
    assert "1 samples have no finite expected draws" in outcome.description


def test_held_out_samples_must_not_be_expected(chain):
    held_out = np.flatnonzero(chain.repository.load_splits(chain.inputs(SECOND).fingerprint) == 2)
    _edit(chain, "heat", "heat", _set(held_out[0], 1.0))
    assert "outside the train split" in chain.check("forecast", SECOND).description


def test_forecast_of_nothing_fails(chain):
    _edit(chain, "heat", "heat", lambda values: values * 0)
    assert "no sample is expected" in chain.check("forecast", SECOND).description


@pytest.mark.parametrize(("column", "value"), [("probability", 1.5), ("expected", np.nan), ("lower", -0.1)])
def test_ranked_chunks_must_have_probabilities_and_counts(chain, column, value):
    _edit(chain, "forecast", column, _set(2, value))
    outcome = chain.check("forecast", SECOND)
    assert not outcome.passed
    assert f"have a {column} outside" in outcome.description


@pytest.mark.parametrize(("column", "value"), [("score", np.nan), ("score", 1.2), ("low", -0.2), ("high", 0.0)])
def test_scores_must_lie_within_bounds(chain, column, value):
    _edit(chain, "scores", column, _set(0, value))
    assert not chain.check("scores", SECOND).passed


def test_every_candidate_strategy_needs_a_score(chain):
    work = chain._context.work(SECOND)
    table = work.table("scores", stage="any")
    work.put_table("scores", table.slice(1))
    outcome = chain.check("scores", SECOND)
    assert not outcome.passed
    assert table.column("strategy")[0].as_py() in outcome.description


def test_draws_that_do_not_add_up_fail(chain):
    _edit(chain, "samples", "count", lambda values: np.append(values[:-1], values[-1] + 1))
    outcome = chain.check("events", SECOND)
    assert not outcome.passed
    assert "2049 draws, the markers report 2048" in outcome.description


def test_plan_for_other_nodes_fails(chain):
    key = chain.keys.layout(SECOND, chain.repository.current().ref.plan_digest, "plan.json")
    chain.store.put(key, chain.store.get(key).replace(b'"node1"', b'"node7"'))
    assert not chain.check("plan", SECOND).passed


def test_missing_shard_is_named(chain):
    shard = chain.repository.open().shards[0]
    chain.store.delete([shard.key])
    outcome = chain.check("shards", SECOND)
    assert not outcome.passed
    assert shard.key in outcome.description


def test_damaged_shard_is_named(chain):
    manifest = chain.repository.open()
    shard = manifest.shards[0]
    raw = bytearray(chain.store.get(shard.key))
    for chunk in np.flatnonzero(manifest.shard_of == 0):
        raw[(manifest.starts[chunk] + manifest.ends[chunk]) // 2] ^= 1
    chain.store.put(shard.key, bytes(raw))
    outcome = chain.check("shards", SECOND)
    assert not outcome.passed
    assert shard.key in outcome.description


@pytest.mark.parametrize(("column", "shift"), [("start", 8), ("end", -8), ("chunk", 1)])
def test_prefetch_entry_with_another_address_fails(chain, column, shift):
    ref = chain.repository.current().ref
    table = read_prefetch(chain.store, chain.keys, ref, "node1")
    moved = _replace(table, column, table.column(column).to_numpy() + shift)
    write_prefetch(chain.store, chain.keys, ref, "node1", moved)
    outcome = chain.check("prefetch", SECOND)
    assert not outcome.passed
    assert "node node1" in outcome.description


def test_older_pointer_and_damaged_layout_fail_the_last_check(chain):
    assert chain.check("publish", SECOND).passed
    ref = chain.repository.current().ref
    key = chain.keys.layout(ref.generation, ref.plan_digest, "manifest.json")
    chain.store.put(key, chain.store.get(key)[:-5])
    assert not chain.check("publish", SECOND).passed
    chain.store.delete([chain.keys.current])
    assert "nothing is published" in chain.check("publish", SECOND).description
