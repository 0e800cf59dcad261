"""Our own events as a chunk trace: order, windows, what belongs to another layout, and thinning."""

import numpy as np
import pyarrow as pa
import pytest
from access_world import CHUNK_OF, CHUNKS, GENERATION, PHASES, RANKS, STEPS, batches, train
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.access.chunk_trace import LayoutTouches, thinned
from foreshard.access.ingest import ingest
from foreshard.access.markers import write_marker
from foreshard.access.schema import EVENT_SCHEMA
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
    touches = LayoutTouches(chunks, **options)
    trace = touches.trace([events], SIZES[chunks])
    half = len(events) // 2
    parts = [events.slice(0, half), events.slice(half)]
    assert touches.trace(parts, SIZES[chunks]).objects.tolist() == trace.objects.tolist()
    assert touches.requests(parts).tolist() == np.bincount(trace.objects, minlength=len(chunks)).tolist()
    return trace


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


def test_nothing_read_makes_a_trace_of_empty_windows():
    trace = LayoutTouches(np.arange(CHUNKS, dtype=np.int32), GENERATION, [1, 2], PHASES).trace([], SIZES)
    assert (trace.windows, len(trace.objects), len(trace.names)) == (2 * PHASES, 0, CHUNKS)
    assert len(make(logged([1]), chunks=np.zeros(0, np.int32)).objects) == 0


@given(seed=st.integers(0, 10**6), most=st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_thinning_keeps_as_many_objects_as_have_few_enough_requests_together(seed, most):
    requests = np.random.default_rng(seed).multinomial(300, np.full(30, 1 / 30))
    kept = thinned(requests, most, seed=seed)
    assert kept.tolist() == np.unique(kept).tolist()
    assert kept.tolist() == thinned(requests, most, seed=seed).tolist()
    assert requests[kept].sum() <= most
    if most >= 300:
        assert kept.tolist() == list(range(30))
    elif most >= 60:
        assert requests[kept].sum() > most - 30


def test_the_schema_of_events_is_the_one_that_is_read():
    assert {"epoch", "step", "rank", "chunk", "phase", "generation"} <= set(EVENT_SCHEMA.names)
    assert pa.types.is_dictionary(EVENT_SCHEMA.field("generation").type)
