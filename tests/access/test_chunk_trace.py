"""Our own events as a chunk trace: order, windows, what belongs to another layout, and thinning."""

import numpy as np
import pyarrow as pa
import pytest
from access_world import CHUNK_OF, CHUNKS, GENERATION, PHASES, RANKS, STEPS, batches, train
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.access.chunk_trace import events_trace, thin
from foreshard.access.ingest import ingest
from foreshard.access.markers import write_marker
from foreshard.access.schema import EVENT_SCHEMA
from foreshard.access.trace import Trace
from foreshard.errors import LogError
from foreshard.keys import DatasetKeys
from foreshard.storage import ObjectStore

SIZES = np.arange(1, CHUNKS + 1, dtype=np.int64) * 1000


def logged(epochs):
    store, keys = ObjectStore.open("memory://"), DatasetKeys("flights")
    for epoch in epochs:
        write_marker(store, keys, train(store, epoch))
    return ingest(store, keys, "demo", range(epochs[0], epochs[-1] + 1)).events


def make(events, chunks=None, **changes):
    chunks = np.arange(CHUNKS, dtype=np.int32) if chunks is None else chunks
    options = {"generation": GENERATION, "epochs": [1, 2], "phases": PHASES, **changes}
    return events_trace(events, chunks, SIZES[chunks], **options)


def test_touches_come_by_epoch_step_and_rank_whatever_order_the_table_has():
    events = logged([1, 2])
    expected = [
        np.unique(CHUNK_OF[batches(epoch, rank)[step]])
        for epoch in (1, 2)
        for step in range(STEPS)
        for rank in range(RANKS)
    ]
    trace = make(events)
    assert trace.objects.tolist() == np.concatenate(expected).tolist()
    assert trace.windows == 2 * PHASES
    per_window = [len(np.concatenate(expected[at : at + RANKS * STEPS // PHASES])) for at in range(0, 48, 8)]
    assert np.diff(trace.starts).tolist() == per_window
    assert trace.nbytes.tolist() == SIZES.tolist()
    # Another order of ranks, steps and epochs; within a step, a rank's chunks keep theirs.
    epoch, step, rank = (-events[name].to_numpy().astype(int) for name in ("epoch", "step", "rank"))
    by_rank = events.take(np.lexsort((step, epoch, rank)))
    assert make(by_rank).objects.tolist() == trace.objects.tolist()


def test_counts_of_the_trace_are_those_of_the_events():
    events = logged([1, 2])
    history = make(events).history()
    assert history.phases_per_epoch == PHASES
    keys = (events["epoch"].to_numpy().astype(int) - 1) * PHASES + events["phase"].to_numpy()
    counts = np.zeros((2 * PHASES, CHUNKS))
    np.add.at(counts, (keys, events["chunk"].to_numpy()), 1)
    assert history.counts.tolist() == counts.tolist()


def test_other_layouts_chunks_and_epochs_are_passed_over_and_leave_their_windows_empty():
    events = logged([1, 2])
    few = make(events, chunks=np.array([2, 7], np.int32))
    assert few.names.tolist() == [2, 7]
    assert np.bincount(few.objects).tolist() == [int((events["chunk"].to_numpy() == chunk).sum()) for chunk in (2, 7)]
    late = make(events, epochs=[2, 3])
    assert np.diff(late.starts)[PHASES:].tolist() == [0] * PHASES
    assert late.objects.tolist() == make(events, epochs=[1, 2]).objects[make(events).starts[PHASES] :].tolist()
    assert len(make(events, generation="demo.e000004").objects) == 0
    assert make(EVENT_SCHEMA.empty_table()).windows == 2 * PHASES


def test_phases_that_do_not_fit_are_refused():
    with pytest.raises(LogError, match=r"phases 0\.\.2, expected 0\.\.1"):
        make(logged([1]), phases=2)


@given(seed=st.integers(0, 10**6), most=st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_thinning_keeps_all_requests_of_what_it_keeps_and_no_others(seed, most):
    rng = np.random.default_rng(seed)
    objects = rng.integers(0, 30, 300).astype(np.int32)
    trace = Trace(objects, np.arange(30).astype(object), np.arange(1, 31), np.array([0, 100, 180, 300]), 3)
    thinned, history = thin(trace, trace.history(), most, seed=seed)
    assert len(thinned.objects) <= most
    kept = thinned.names.astype(int)
    assert thinned.names[thinned.objects].tolist() == [one for one in objects.tolist() if one in set(kept.tolist())]
    assert history.counts.tolist() == trace.history().counts[:, kept].tolist()
    assert thinned.history().counts.tolist() == history.counts.tolist()
    assert thinned.nbytes.tolist() == (kept + 1).tolist()
    if most >= 300:
        assert thinned is trace
    elif most >= 60:
        assert len(thinned.objects) > most - 30


def test_the_schema_of_events_is_the_one_that_is_read():
    assert {"epoch", "step", "rank", "chunk", "phase", "generation"} <= set(EVENT_SCHEMA.names)
    assert pa.types.is_dictionary(EVENT_SCHEMA.field("generation").type)
