"""Logs read one object at a time: the same result as all at once, in the memory of one object."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from access_world import (
    CHUNK_OF,
    CHUNKS,
    GENERATION,
    KEYS,
    PHASES,
    RUN,
    SAMPLES,
    STEPS,
    batches,
    mark,
    new_store,
    open_writer,
    record,
    train,
)

from foreshard.access.history import DrawCounter, chunk_history
from foreshard.access.ingest import ingest, ingest_history, stream_logs
from foreshard.access.schema import SAMPLE_SCHEMA
from foreshard.errors import LogError

MOVED = "demo.e000004"
MOVED_CHUNK_OF = (np.arange(SAMPLES) % 7).astype(np.int32)


def store_of(epochs, *, spoil=None):
    store = new_store()
    for epoch in range(1, epochs + 1):
        marker = train(store, epoch)
        if epoch == spoil:
            store.delete([marker.logs[0].key])
            store.put(marker.logs[3].key, b"nothing")
        mark(store, marker)
    return store


def same(one, two):
    assert np.array_equal(one.counts, two.counts)
    assert one.counts.dtype == two.counts.dtype
    assert (one.epochs.tolist(), one.phases.tolist()) == (two.epochs.tolist(), two.phases.tolist())
    assert one.phases_per_epoch == two.phases_per_epoch


@pytest.mark.parametrize("spoil", [None, 2])
def test_history_while_reading_is_the_history_of_what_was_read(spoil):
    store = store_of(3, spoil=spoil)
    whole = ingest(store, KEYS, RUN, range(1, 5))
    history, found = ingest_history(store, KEYS, RUN, range(1, 5), CHUNK_OF, CHUNKS, PHASES)
    same(history, chunk_history(whole.samples, CHUNK_OF, CHUNKS, PHASES))
    assert found.markers == whole.markers
    assert found.problems == whole.problems
    assert found.problems  # epoch 4 is not finished


def test_history_of_nothing_is_empty():
    history, found = ingest_history(new_store(), KEYS, RUN, range(1, 2), CHUNK_OF, CHUNKS, PHASES)
    same(history, chunk_history(SAMPLE_SCHEMA.empty_table(), CHUNK_OF, CHUNKS, PHASES))
    assert len(found.problems) == 1


def test_a_log_of_another_snapshot_or_layout_is_refused():
    store = store_of(1)
    for chunk_of, chunks, phases, says in (
        (CHUNK_OF[:5], CHUNKS, PHASES, "sample_id .* is outside 0..4"),
        (CHUNK_OF, 3, PHASES, "chunk .* is outside 0..2"),
        (CHUNK_OF, CHUNKS, 2, "phase 2 is outside 0..1"),
    ):
        with pytest.raises(LogError, match=says):
            ingest_history(store, KEYS, RUN, range(1, 2), chunk_of, chunks, phases)


def test_tables_with_rows_of_several_epochs_are_counted_as_one_by_one():
    whole = ingest(store_of(3), KEYS, RUN, range(1, 4)).samples
    counter = DrawCounter(CHUNK_OF, CHUNKS, PHASES)
    for start in range(0, whole.num_rows, 50):
        counter.add(whole.slice(start, 50))
    same(counter.history(), chunk_history(whole, CHUNK_OF, CHUNKS, PHASES))


def test_rows_are_handed_on_in_the_order_of_the_whole_and_not_kept():
    store = store_of(6)
    whole = ingest(store, KEYS, RUN, range(1, 7))
    rows = {"events": [], "samples": []}
    held = []

    def take(kind, table):
        held.append(pa.total_allocated_bytes() - before)
        rows[kind].extend(table.to_pylist())

    before = pa.total_allocated_bytes()
    found = stream_logs(store, KEYS, RUN, range(1, 7), take)
    assert found.problems == ()
    assert rows == {"events": whole.events.to_pylist(), "samples": whole.samples.to_pylist()}
    assert len(held) == 6 * 2 * 2
    assert max(held[-4:]) <= max(held[:4]) * 1.5


def test_a_layout_change_in_mid_epoch_logs_the_chunks_of_the_new_layout():
    """The first steps are logged in one layout, the rest in another; the log speaks of the second throughout."""
    store = new_store()
    sizes = np.arange(1, 8, dtype=np.int64) * 100
    logs = []
    for rank in range(2):
        writer = open_writer(store, 1, rank)
        for step, ids in enumerate(batches(1, rank)):
            if step == 5:
                writer.move(MOVED, MOVED_CHUNK_OF, sizes)
            if step < 5:
                record(writer, step, ids)
            else:
                chunks = np.unique(MOVED_CHUNK_OF[ids])
                none = np.zeros(len(chunks), np.int32)
                writer.touches(step, chunks, none.astype(bool), sizes[chunks], none, none)
                writer.samples(step, ids)
        logs += writer.close()
    clean = new_store()
    plain = train(clean, 1)
    mark(clean, plain)
    mark(store, replace(plain, generation=MOVED, logs=tuple(logs)))
    moved, unmoved = (ingest(s, KEYS, RUN, range(1, 2)) for s in (store, clean))
    assert moved.problems == ()
    assert moved.samples.equals(unmoved.samples)
    assert set(moved.events["generation"].to_pylist()) == {MOVED}
    touched = [
        (rank, step, chunk)
        for rank in range(2)
        for step, ids in enumerate(batches(1, rank))
        for chunk in np.unique(MOVED_CHUNK_OF[ids])
    ]
    assert list(zip(*(moved.events[name].to_pylist() for name in ("rank", "step", "chunk")), strict=True)) == touched


def test_a_rank_that_stayed_in_the_old_layout_is_named_and_the_other_kept():
    store = new_store()
    logs = []
    for rank, generation in ((0, MOVED), (1, GENERATION)):
        writer = open_writer(store, 1, rank, generation=generation)
        for step, ids in enumerate(batches(1, rank)):
            record(writer, step, ids)
        logs += writer.close()
    mark(store, replace(train(new_store(), 1), generation=MOVED, logs=tuple(logs)))
    got = ingest(store, KEYS, RUN, range(1, 2))
    named = [problem.what for problem in got.problems]
    assert sum(f"was written for generation {GENERATION!r}, its marker says {MOVED!r}" in what for what in named) == 2
    assert sum("no valid" in what for what in named) == 2
    assert set(got.events["rank"].to_pylist()) == {0}


def test_an_epoch_resumed_twice_is_whole_and_one_with_a_gap_says_so():
    parts = [("a", range(4)), ("b", range(4, 9)), ("c", range(9, STEPS))]
    store, clean = new_store(), new_store()
    mark(clean, train(clean, 1))
    markers = [train(store, 1, write_id=name, steps=steps) for name, steps in parts]
    logs = tuple(log for marker in markers for log in marker.logs)
    mark(store, replace(markers[0], logs=logs))
    got, whole = (ingest(s, KEYS, RUN, range(1, 2)) for s in (store, clean))
    assert got.problems == ()
    assert got.events.equals(whole.events)
    history, _ = ingest_history(store, KEYS, RUN, range(1, 2), CHUNK_OF, CHUNKS, PHASES)
    same(history, chunk_history(whole.samples, CHUNK_OF, CHUNKS, PHASES))
    gapped = new_store()
    markers = [train(gapped, 1, write_id=name, steps=steps) for name, steps in parts[::2]]
    mark(gapped, replace(markers[0], logs=tuple(log for marker in markers for log in marker.logs)))
    named = [problem.what for problem in ingest(gapped, KEYS, RUN, range(1, 2)).problems]
    assert [what.partition(" of rank")[0] for what in named] == ["lacks steps 4..8"] * 4
