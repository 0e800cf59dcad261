"""The regime and the policy in the control loop: what the forecast stage stores, and what prefetch manifests carry."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from chain_world import FIRST, SECOND, copy_of, trained_world

from foreshard.access.history import chunk_history
from foreshard.chain.access import select_chunks
from foreshard.chain.context import Context
from foreshard.chain.policy import ADVICE, POLICY, advice_for, policy_document, policy_of_events
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.gate import EVIDENCE_SCHEMA
from foreshard.prefetch.manifest import PIN_ALL, Advice, advice_of, read_prefetch
from foreshard.splits import split_code


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_world(tmp_path_factory)


@pytest.fixture
def chain(trained, tmp_path):
    return copy_of(trained, tmp_path / "copy")


def work_of(chain, generation=SECOND):
    return Context(chain._context.config, chain.store).work(generation)


def test_the_forecast_stage_stores_regime_policy_and_evidence(trained, chain):
    stored = work_of(chain).json(POLICY, stage="access/forecast")
    figures = trained.second["forecast"].metadata
    assert stored["layout"] == FIRST
    assert (stored["policy"], stored["pin_fraction"]) == (figures["policy"], figures["pin_fraction"]) == ("pin", 1.0)
    assert figures["regime"] == stored["regime"]["kind"] == "popularity"
    assert figures["policy_reason"] == stored["reason"]
    evidence = work_of(chain).table("policy_evidence", stage="access/forecast")
    assert evidence.schema.equals(EVIDENCE_SCHEMA)
    touches = work_of(chain).table("events", stage="access/events").num_rows
    lru = evidence.filter(pa.array([name == "lru" for name in evidence.column("policy").to_pylist()]))
    first = evidence.column("window").to_numpy().min()
    assert first == 1
    assert touches / 2 < lru.column("requests").to_numpy().sum() < touches  # all windows but the first
    rows = trained.second["forecast"].tables
    assert [row["policy"] for row in rows["policies"] if row["chosen"]] == ["pin"]
    assert {row["figure"] for row in rows["regime_evidence"]} >= {"dispersion", "concentration", "unseen"}


def test_a_stage_that_runs_again_chooses_the_same(chain, trained):
    assert chain.forecast(SECOND).data_version == trained.second["forecast"].data_version
    assert chain.prefetch(SECOND).data_version == trained.second["prefetch"].data_version


def test_prefetch_manifests_carry_the_advice_of_their_layout(chain, trained):
    ref = chain.repository.current().ref
    carried = {advice_of(read_prefetch(chain.store, chain.keys, ref, name)) for name in ("node0", "node1")}
    assert carried == {Advice("pin", 1.0, "popularity")}
    figures = trained.second["prefetch"].metadata
    assert (figures["policy"], figures["pin_fraction"], figures["regime"]) == ("pin", 1.0, "popularity")
    assert "packs other chunks" in figures["policy_reason"]
    assert work_of(chain).json(ADVICE, stage="x")["policy"] == "pin"
    first = trained.first["prefetch"].metadata
    assert (first["policy"], first["regime"]) == ("pin", "unknown")
    assert "no log yet" in first["policy_reason"]


def advised(chain, *, same, **changes):
    """Advice for the second generation's layout, from a changed document of the forecast stage."""
    context = chain._context
    inputs = context.inputs(SECOND)
    work = context.work(SECOND)
    work.put_json(POLICY, {**work.json(POLICY, stage="x"), **changes})
    current = context.repository.open()
    parent = context.repository.open(inputs.parent)
    chunk_of = parent.chunk_of if same else current.chunk_of
    assert np.array_equal(chunk_of, parent.chunk_of) == same
    return advice_for(context, inputs, SimpleNamespace(chunk_of=chunk_of))[0]


def test_what_was_tried_on_the_layout_that_was_read_holds_for_the_same_chunks_or_where_the_log_drifts(chain):
    tried = {"policy": "s3-fifo", "pin_fraction": 0.0, "regime": {"kind": "popularity", "words": ""}}
    assert advised(chain, same=True, **tried) == Advice("s3-fifo", 0.0, "popularity")
    assert advised(chain, same=False, **tried) == Advice("pin", 1.0, "popularity")
    drift = {**tried, "regime": {"kind": "drift", "words": ""}}
    assert advised(chain, same=False, **drift) == Advice("s3-fifo", 0.0, "drift")
    none = {"policy": None, "pin_fraction": 1.0, "regime": {"kind": "uniform", "words": ""}}
    assert advised(chain, same=True, **none) == Advice("pin", 1.0, "uniform")


def history_of_parent(chain):
    """Draws of the training chunks of the layout that was read, and their numbers."""
    context = chain._context
    manifest = context.repository.open(context.inputs(SECOND).parent)
    chunks = np.flatnonzero(manifest.splits == split_code("train")).astype(np.int32)
    history = chunk_history(work_of(chain).table("samples", stage="x"), manifest.chunk_of, len(manifest), 2)
    return select_chunks(history, chunks), chunks


def choose(chain, events=None):
    """What the stage chooses, or would for other events."""
    context = chain._context
    history, chunks = history_of_parent(chain)
    if events is not None:
        work_of(chain).put_table("events", events)
    events = work_of(chain).rows("events", stage="x")
    return policy_of_events(context, context.inputs(SECOND), events, history, chunks, "ewma")


def test_without_events_of_the_layout_that_is_left_no_policy_is_chosen(chain):
    events = work_of(chain).table("events", stage="x")
    position = events.schema.get_field_index("generation")
    other = events.set_column(
        position,
        events.schema.field(position),
        pa.array(["demo.e000099"] * len(events)).cast(events.schema.field(position).type),
    )
    for nothing in (other, events.slice(0, 0)):
        regime, choice = choose(chain, nothing)
        assert choice is None
        document = policy_document(regime, choice, None)
        assert (document["policy"], document["pin_fraction"]) == (None, PIN_ALL.pin_fraction)
    assert choose(chain, events)[1] is not None


def test_the_policy_in_use_is_the_one_the_layout_was_published_with(chain, monkeypatch):
    asked = []

    def look(*_, current, **__):
        asked.append(current)

    monkeypatch.setattr("foreshard.chain.policy.choose_policy", look)
    choose(chain)
    work = work_of(chain, FIRST)
    work.put_json(ADVICE, {"policy": "lru", "pin_fraction": 0.0, "regime": "drift", "reason": ""})
    choose(chain)
    chain.store.delete([chain.keys.work(FIRST, "advice.json")])
    choose(chain)
    assert asked == ["pin", "lru", None]


def test_policies_are_tried_on_what_a_manifest_would_have_pinned_for_the_whole_epoch(chain, monkeypatch):
    seen = []

    def look(trace, expected, *_, rules, **__):
        seen.append((trace.windows, rules.scored, expected))

    monkeypatch.setattr("foreshard.chain.policy.choose_policy", look)
    choose(chain)
    ((windows, scored, expected),) = seen
    assert (windows, scored) == (4, 4)  # two epochs of two phases, and no part of one decides
    assert expected(2).tolist() == expected(3).tolist()
    past = history_of_parent(chain)[0].until(2)
    assert expected(3).tolist() == EwmaForecaster().fit(past).predict(2).expected.sum(0).tolist()
