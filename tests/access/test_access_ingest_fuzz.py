"""Whatever happens to our own logs and markers: what is whole is kept, what is not is named, and nothing crashes."""

import hashlib
from dataclasses import replace
from functools import cache

import pytest
from access_world import CHUNK_OF, CHUNKS, KEYS, PHASES, RUN, mark, new_store, relist, train
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.access.history import chunk_history
from foreshard.access.ingest import ingest, ingest_history
from foreshard.access.markers import EpochMarker
from foreshard.errors import LogError

EPOCHS = range(1, 3)
LOGS = len(EPOCHS) * 2 * 2

PLACES = st.integers(0, 10**6)
DAMAGES = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, LOGS - 1), PLACES, st.integers(1, 255)),
    st.tuples(st.just("cut"), st.integers(0, LOGS - 1), PLACES),
    st.tuples(st.just("empty"), st.integers(0, LOGS - 1)),
    st.tuples(st.just("append"), st.integers(0, LOGS - 1), st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("delete"), st.integers(0, LOGS - 1)),
    st.tuples(st.just("swap"), st.integers(0, LOGS - 1), st.integers(0, LOGS - 1)),
)


@cache
def clean():
    """The bytes of a good run's store, and its markers."""
    store = new_store()
    markers = [train(store, epoch) for epoch in EPOCHS]
    for marker in markers:
        mark(store, marker)
    return {meta.key: store.get(meta.key) for meta in store.list("")}, markers


def restore(objects):
    store = new_store()
    for key, raw in objects.items():
        store.put(key, raw)
    return store


def apply(objects, keys, damage):
    """Damage the objects in place."""
    kind, log, *rest = damage
    key, raw = keys[log], objects.pop(keys[log], b"")
    if kind == "swap":
        objects[key], objects[keys[rest[0]]] = objects.get(keys[rest[0]], raw), raw
    elif kind == "flip" and raw:
        place = rest[0] % len(raw)
        objects[key] = raw[:place] + bytes([raw[place] ^ rest[1]]) + raw[place + 1 :]
    elif kind == "cut":
        objects[key] = raw[: rest[0] % (len(raw) + 1)]
    elif kind == "append":
        objects[key] = raw + rest[0]
    elif kind == "empty":
        objects[key] = b""


def parts(ingested):
    """Return the rows of every (epoch, rank) of the events and of every epoch of the samples."""
    events = {}
    for row in ingested.events.to_pylist():
        events.setdefault((row["epoch"], row["rank"]), []).append(row)
    return events, ingested.samples.to_pylist()


@settings(max_examples=60)
@given(damages=st.lists(DAMAGES, min_size=1, max_size=4))
def test_damaged_objects_are_named_and_whole_ones_kept(damages):
    good, markers = clean()
    objects = dict(good)
    logs = [log for marker in markers for log in marker.logs]
    for damage in damages:
        apply(objects, [log.key for log in logs], damage)
    broken = {log.key for log in logs if objects.get(log.key) != good[log.key]}
    got = ingest(restore(objects), KEYS, RUN, EPOCHS)
    named = {problem.key for problem in got.problems if problem.severity == "error"}
    assert broken <= named
    assert named - broken <= {KEYS.marker(RUN, epoch) for epoch in EPOCHS}
    events, samples = parts(got)
    all_events, all_samples = parts(ingest(restore(good), KEYS, RUN, EPOCHS))
    whole = {
        (epoch, log.rank)
        for epoch, marker in zip(EPOCHS, markers, strict=True)
        for log in marker.logs
        if log.kind == "events" and log.key not in broken
    }
    assert events == {part: rows for part, rows in all_events.items() if part in whole}
    for epoch, marker in zip(EPOCHS, markers, strict=True):
        if not any(log.key in broken for log in marker.logs if log.kind == "samples"):
            assert [r for r in samples if r["epoch"] == epoch] == [r for r in all_samples if r["epoch"] == epoch]
    history, found = ingest_history(restore(objects), KEYS, RUN, EPOCHS, CHUNK_OF, CHUNKS, PHASES)
    assert (history.counts == chunk_history(got.samples, CHUNK_OF, CHUNKS, PHASES).counts).all()
    assert found.problems == got.problems


@settings(max_examples=150)
@given(flips=st.lists(st.tuples(PLACES, st.integers(1, 255)), min_size=1, max_size=3), cut=st.one_of(st.none(), PLACES))
def test_a_damaged_marker_is_named_or_changes_nothing_and_the_other_epoch_is_kept(flips, cut):
    good, _ = clean()
    key = KEYS.marker(RUN, 1)
    raw = bytearray(good[key])
    for place, flip in flips:
        raw[place % len(raw)] ^= flip
    if cut is not None:
        raw = raw[: cut % len(raw)]
    got = ingest(restore(good | {key: bytes(raw)}), KEYS, RUN, EPOCHS)
    whole = ingest(restore(good), KEYS, RUN, EPOCHS)
    if not got.problems:
        assert (got.events, got.samples) == (whole.events, whole.samples)
    (events, samples), (all_events, all_samples) = parts(got), parts(whole)
    for rank in range(2):
        assert events[2, rank] == all_events[2, rank]
    assert [r for r in samples if r["epoch"] == 2] == [r for r in all_samples if r["epoch"] == 2]
    for part, rows in events.items():
        assert rows == all_events[part]


@settings(max_examples=60)
@given(
    log=st.integers(0, 3),
    flips=st.lists(st.tuples(PLACES, st.integers(1, 255)), min_size=1, max_size=3),
)
def test_an_object_that_its_marker_vouches_for_is_read_or_named_whatever_it_holds(log, flips):
    """A writer's bug: the digest is right, the content is not what a log should be."""
    good, (marker, _) = clean()
    raw = bytearray(good[marker.logs[log].key])
    for place, flip in flips:
        raw[place % len(raw)] ^= flip
    changed = relist(marker, log, sha256=hashlib.sha256(raw).hexdigest())
    objects = good | {marker.logs[log].key: bytes(raw), KEYS.marker(RUN, 1): changed.to_json().encode()}
    got = ingest(restore(objects), KEYS, RUN, EPOCHS)
    others = {(1, rank) for rank in range(2)} - {(1, marker.logs[log].rank)} | {(2, 0), (2, 1)}
    assert others <= set(parts(got)[0])


@settings(max_examples=60)
@given(
    order=st.permutations(range(4)),
    again=st.lists(st.integers(0, 3), max_size=3),
    drop=st.lists(st.integers(0, 3), max_size=2),
)
def test_entries_in_any_order_twice_or_left_out_are_named(order, again, drop):
    good, (marker, _) = clean()
    listed = [marker.logs[i] for i in order if i not in drop] + [marker.logs[i] for i in again if i not in drop]
    changed = replace(marker, logs=tuple(listed))
    got = ingest(restore(good | {KEYS.marker(RUN, 1): changed.to_json().encode()}), KEYS, RUN, EPOCHS)
    whole = ingest(restore(good), KEYS, RUN, EPOCHS)
    twice = {marker.logs[i].key for i in again if i not in drop}
    errors = [problem for problem in got.problems if problem.severity == "error"]
    assert {problem.key for problem in errors if "repeats steps" in problem.what} == twice
    assert sum("no valid" in problem.what for problem in errors) == len(set(drop))
    if not drop:
        assert got.events.equals(whole.events)
        assert got.samples.equals(whole.samples)


@pytest.mark.parametrize(
    ("name", "value"),
    [("world_size", 10**12), ("steps", 10**15), ("phases", 10**9), ("epoch", 2**31), ("draws", 2**63)],
)
def test_a_marker_with_a_number_that_no_writer_can_log_is_refused_at_once(name, value):
    _, (marker, _) = clean()
    with pytest.raises(LogError, match=f"{name} is {value}"):
        EpochMarker.from_json(replace(marker, **{name: value}).to_json())


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "null", "[]", '{"format": 1}', "NaN", b"\xff\xfe"])
def test_a_marker_that_is_no_marker_is_refused_in_words(text):
    with pytest.raises(LogError, match="marker cannot be read"):
        EpochMarker.from_json(text)
