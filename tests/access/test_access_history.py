import numpy as np
import pyarrow as pa
import pytest
from access_world import CHUNK_OF, CHUNKS, KEYS, PHASES, RUN, SAMPLES, STEPS, batches, mark, new_store, train
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foreshard.access.history import chunk_history, chunk_history_from_events, sample_counts
from foreshard.access.ingest import ingest
from foreshard.access.schema import EVENT_SCHEMA, SAMPLE_SCHEMA
from foreshard.errors import LogError


def window(*epochs):
    store = new_store()
    for epoch in epochs:
        mark(store, train(store, epoch))
    return ingest(store, KEYS, RUN, range(min(epochs), max(epochs) + 1))


def sample_table(rows):
    columns = zip(*rows, strict=True) if rows else [[]] * 4
    return pa.table(
        [pa.array(list(column), f.type) for column, f in zip(columns, SAMPLE_SCHEMA, strict=True)], SAMPLE_SCHEMA
    )


def event_table(chunks, generation="demo.e000000", epoch=1, phase=0):
    values = {"run": "demo", "generation": generation, "epoch": epoch, "phase": phase, "hit": True}
    columns = [[values.get(f.name, 0)] * len(chunks) if f.name != "chunk" else chunks for f in EVENT_SCHEMA]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, EVENT_SCHEMA, strict=True)], EVENT_SCHEMA)


def test_counts_are_the_draws_of_each_chunk_in_each_window():
    history = chunk_history(window(1, 2).samples, CHUNK_OF, CHUNKS, PHASES)
    expected = np.zeros((2 * PHASES, CHUNKS))
    for epoch in (1, 2):
        for rank in (0, 1):
            for step, ids in enumerate(batches(epoch, rank)):
                np.add.at(expected[(epoch - 1) * PHASES + step * PHASES // STEPS], CHUNK_OF[ids], 1)
    assert np.array_equal(history.counts, expected)
    assert history.epochs.tolist() == [1, 1, 1, 2, 2, 2]
    assert history.phases.tolist() == [0, 1, 2, 0, 1, 2]
    assert (history.windows, history.chunks, history.phases_per_epoch, history.next_phase) == (6, CHUNKS, PHASES, 0)


samples_of_some_epochs = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 2), st.integers(0, 29), st.integers(1, 5)), max_size=60
)


@settings(max_examples=60, deadline=None)
@given(samples_of_some_epochs, hnp.arrays(np.int32, 30, elements=st.integers(0, 6)))
def test_projecting_on_any_layout_keeps_every_window_total(rows, chunk_of):
    table = sample_table(rows)
    one = chunk_history(table, np.zeros(30, np.int32), 1, 3)
    many = chunk_history(table, chunk_of, 7, 3)
    assert np.array_equal(many.counts.sum(1), one.counts[:, 0])
    assert many.counts.sum() == sum(row[3] for row in rows)
    assert np.array_equal(np.unique(many.epochs), sorted({row[0] for row in rows}))


def test_windows_without_draws_of_a_logged_epoch_are_zero():
    history = chunk_history(sample_table([(4, 2, 0, 3), (2, 0, 1, 1)]), np.array([0, 1], np.int32), 2, 3)
    assert history.counts.tolist() == [[0, 1], [0, 0], [0, 0], [0, 0], [0, 0], [3, 0]]
    assert history.epochs.tolist() == [2, 2, 2, 4, 4, 4]


def test_no_samples_give_a_history_without_windows():
    history = chunk_history(sample_table([]), CHUNK_OF, CHUNKS, PHASES)
    assert history.counts.shape == (0, CHUNKS)


def test_until_is_what_was_known_then():
    history = chunk_history(window(1, 2).samples, CHUNK_OF, CHUNKS, PHASES)
    past = history.until(4)
    assert (past.windows, past.next_phase) == (4, 1)
    assert np.array_equal(past.counts, history.counts[:4])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ((1, 0, 30, 1), r"sample_id 30 is outside 0\.\.29"),
        ((1, 3, 0, 1), r"phase 3 is outside 0\.\.2"),
        ((1, 0, 29, 1), r"chunk 9 is outside 0\.\.6"),
    ],
)
def test_samples_that_do_not_fit_the_layout_are_refused(row, says):
    chunk_of = np.zeros(30, np.int32)
    chunk_of[29] = 9
    with pytest.raises(LogError, match=says):
        chunk_history(sample_table([row]), chunk_of, 7, 3)


def test_touches_of_a_chunk_are_spread_over_its_samples():
    old, new = np.array([0, 0, 0, 0, 1, 1], np.int32), np.array([0, 0, 0, 1, 1, 2], np.int32)
    history = chunk_history_from_events(event_table([0, 0, 1]), old, np.array([4, 2], np.int32), new, 3, 1)
    assert history.counts.tolist() == [[1.5, 0.5 + 0.5, 0.5]]


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.int32, 20, elements=st.integers(0, 3)),
    hnp.arrays(np.int32, 20, elements=st.integers(0, 5)),
    st.lists(st.integers(0, 3), max_size=30),
)
def test_spreading_touches_keeps_their_number_and_an_equal_layout(old, new, touched):
    touched = [chunk for chunk in touched if chunk in old]
    rows = np.bincount(old, minlength=4)
    moved = chunk_history_from_events(event_table(touched), old, rows, new, 6, 1)
    assert moved.counts.sum() == pytest.approx(len(touched))
    same = chunk_history_from_events(event_table(touched), old, rows, old, 4, 1)
    assert np.allclose(same.counts.sum(0), np.bincount(touched, minlength=4))


def test_events_of_the_whole_window_give_its_touches():
    events = window(1, 2).events
    rows = np.bincount(CHUNK_OF)
    history = chunk_history_from_events(events, CHUNK_OF, rows, CHUNK_OF, CHUNKS, PHASES)
    frame = np.zeros((2 * PHASES, CHUNKS))
    where = (events["epoch"].to_numpy() - 1) * PHASES + events["phase"].to_numpy()
    np.add.at(frame, (where, events["chunk"].to_numpy()), 1)
    assert np.allclose(history.counts, frame)


def test_events_of_two_generations_are_refused():
    both = pa.concat_tables([event_table([0]), event_table([0], "demo.e000004")])
    one = np.zeros(3, np.int32)
    with pytest.raises(LogError, match=r"generations \['demo\.e000000', 'demo\.e000004'\]"):
        chunk_history_from_events(both, one, np.array([3]), one, 1, 1)


def test_layouts_that_contradict_each_other_are_refused():
    one = np.zeros(3, np.int32)
    with pytest.raises(LogError, match="3 and 2 samples"):
        chunk_history_from_events(event_table([0]), one, np.array([3]), one[:2], 1, 1)
    with pytest.raises(LogError, match="rows per chunk"):
        chunk_history_from_events(event_table([0]), one, np.array([2]), one, 1, 1)
    with pytest.raises(LogError, match=r"chunk 1 is outside 0\.\.0"):
        chunk_history_from_events(event_table([1]), one, np.array([3]), one, 1, 1)


def test_sample_counts_are_the_draws_of_each_epoch():
    counts = sample_counts(window(1, 2).samples, SAMPLES, [2, 1])
    assert counts.dtype == np.float32
    for row, epoch in zip(counts, (2, 1), strict=True):
        drawn = np.concatenate([ids for rank in (0, 1) for ids in batches(epoch, rank)])
        assert np.array_equal(row, np.bincount(drawn, minlength=SAMPLES))


def test_sample_counts_of_an_epoch_without_rows_are_refused():
    with pytest.raises(LogError, match="no row of epoch 3"):
        sample_counts(window(1, 2).samples, SAMPLES, [1, 3])
