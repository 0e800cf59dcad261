import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from access_world import CHUNK_OF, KEYS, RANKS, RUN, STEPS, batches, mark, new_store, relist, train
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshard.access.ingest import ingest, require_complete
from foreshard.errors import LogError
from foreshard.storage import ObjectStore


def errors(ingested):
    return [(problem.key, problem.what) for problem in ingested.problems if problem.severity == "error"]


def rewrite(store, marker, index, change):
    """Replace one log object by `change(table)`, with a marker that vouches for it: a writer's bug, not damage."""
    log = marker.logs[index]
    table = change(pq.read_table(pa.BufferReader(store.get(log.key))))
    raw = table if isinstance(table, bytes) else parquet(table)
    store.put(log.key, raw)
    rows = log.rows if isinstance(table, bytes) else table.num_rows
    return relist(marker, index, size=len(raw), sha256=hashlib.sha256(raw).hexdigest(), rows=rows)


def parquet(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def swap_column(name, values):
    def change(table):
        field = table.schema.field(name)
        return table.set_column(table.schema.get_field_index(name), field, pa.array(values(table), field.type))

    return change


def test_a_window_of_good_logs_comes_back_whole():
    store = new_store()
    for epoch in (1, 2, 3):
        mark(store, train(store, epoch))
    ingested = ingest(store, KEYS, RUN, range(2, 4))
    assert ingested.problems == ()
    require_complete(ingested)
    assert [marker.epoch for marker in ingested.markers] == [2, 3]
    ids = np.concatenate([ids for epoch in (2, 3) for rank in range(RANKS) for ids in batches(epoch, rank)])
    found = np.repeat(ingested.samples["sample_id"].to_numpy(), ingested.samples["count"].to_numpy())
    assert np.array_equal(np.sort(found), np.sort(ids))
    touched = [
        (epoch, rank, step, chunk)
        for epoch in (2, 3)
        for rank in range(RANKS)
        for step, drawn in enumerate(batches(epoch, rank))
        for chunk in np.unique(CHUNK_OF[drawn])
    ]
    columns = (ingested.events[name].to_pylist() for name in ("epoch", "rank", "step", "chunk"))
    assert list(zip(*columns, strict=True)) == touched


def test_the_result_does_not_depend_on_the_kind_of_store_or_the_order_in_the_marker(tmp_path):
    one, two = new_store(), ObjectStore.open(tmp_path.as_uri())
    mark(one, train(one, 1))
    marker = train(two, 1)
    mark(two, replace(marker, logs=marker.logs[::-1]))
    a, b = (ingest(store, KEYS, RUN, range(1, 2)) for store in (one, two))
    assert a.events.equals(b.events)
    assert a.samples.equals(b.samples)


def test_no_epochs_give_empty_tables_of_the_right_schema():
    ingested = ingest(new_store(), KEYS, RUN, range(1, 1))
    assert (ingested.events.num_rows, ingested.samples.num_rows, ingested.problems) == (0, 0, ())
    assert "chunk" in ingested.events.column_names


def test_an_unfinished_epoch_is_named_and_the_others_kept():
    store = new_store()
    mark(store, train(store, 1))
    ingested = ingest(store, KEYS, RUN, range(1, 3))
    assert [key for key, _ in errors(ingested)] == [KEYS.marker(RUN, 2)]
    assert set(ingested.samples["epoch"].to_pylist()) == {1}
    with pytest.raises(LogError, match=r"e000002\.json' is not there: epoch 2 of run 'demo' is not finished; wait"):
        require_complete(ingested)


def test_a_damaged_marker_is_named_and_the_other_epochs_kept():
    store = new_store()
    mark(store, train(store, 1))
    store.create(KEYS.marker(RUN, 2), b"{")
    ingested = ingest(store, KEYS, RUN, range(1, 3))
    assert [key for key, _ in errors(ingested)] == [KEYS.marker(RUN, 2)]
    assert ingested.samples.num_rows > 0


def quarantined(damage):
    """Damage the events of rank 1 and return what ingestion says of that object; everything else must be kept."""
    store, clean = new_store(), new_store()
    marker = train(store, 1)
    index = next(i for i, log in enumerate(marker.logs) if (log.kind, log.rank) == ("events", 1))
    marker = damage(store, marker, index) or marker
    mark(store, marker)
    mark(clean, train(clean, 1))
    ingested, whole = (ingest(s, KEYS, RUN, range(1, 2)) for s in (store, clean))
    assert ingested.samples.equals(whole.samples)
    assert set(ingested.events["rank"].to_pylist()) == {0}
    (key, what), (marker_key, no_rank) = errors(ingested)
    assert key == marker.logs[index].key
    assert marker_key == KEYS.marker(RUN, 1)
    assert "no valid events log of rank 1" in no_rank
    with pytest.raises(LogError, match="access log '") as caught:
        require_complete(ingested)
    assert key in str(caught.value)
    assert what in str(caught.value)
    return what


def test_a_missing_object_is_quarantined():
    what = quarantined(lambda store, marker, index: store.delete([marker.logs[index].key]))
    assert "missing from the store" in what


def test_an_object_cut_short_is_quarantined():
    def damage(store, marker, index):
        store.put(marker.logs[index].key, store.get(marker.logs[index].key)[:-7])

    assert "cut short" in quarantined(damage)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_single_changed_byte_anywhere_is_quarantined(place, flip):
    def damage(store, marker, index):
        raw = bytearray(store.get(marker.logs[index].key))
        raw[place % len(raw)] ^= flip
        store.put(marker.logs[index].key, bytes(raw))

    assert "it was altered" in quarantined(damage)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _: b"not parquet at all", "not readable as Parquet"),
        (lambda table: table.replace_schema_metadata(None), "no foreshard header"),
        (lambda table: table.replace_schema_metadata({b"foreshard": b"{"}), "header that cannot be read"),
        (lambda table: table.drop_columns(["hit"]), r"lacks \[\('hit', 'bool'\)\]"),
        (
            lambda table: table.set_column(4, "step", table["step"].cast(pa.int64())),
            r"instead \[\('step', 'int64'\)\]",
        ),
        (lambda table: pa.concat_tables([table, table.slice(3, 2)]), "2 duplicated rows"),
        (swap_column("run", lambda table: ["other"] * table.num_rows), r"rows of run \['other'\]"),
        (swap_column("generation", lambda table: ["demo.e000004"] * table.num_rows), "rows of generation"),
        (swap_column("epoch", lambda table: [7] * table.num_rows), r"rows of epoch \[7\]"),
        (swap_column("rank", lambda table: [0] * table.num_rows), r"rows of rank \[0\]"),
        (swap_column("phase", lambda table: [0] * table.num_rows), "phases that do not follow"),
        (swap_column("step", lambda table: [99] * table.num_rows), "rows of steps 99"),
        (swap_column("chunk", lambda table: [-1] * table.num_rows), "chunk -1, below 0"),
        (swap_column("hit", lambda table: [None] * table.num_rows), "nulls in hit"),
    ],
)
def test_an_object_that_contradicts_its_marker_is_quarantined(change, says):
    what = quarantined(lambda store, marker, index: rewrite(store, marker, index, change))
    assert re.search(says, what), what


@pytest.mark.parametrize("field", ["run", "epoch", "rank", "generation", "steps", "phases", "kind"])
def test_an_object_whose_header_names_another_origin_is_quarantined(field):
    other = {"run": "other", "generation": "demo.e000009", "kind": "samples"}.get(field, 11)

    def change(table):
        text = table.schema.metadata[b"foreshard"].decode()
        raw = json.loads(text) | {field: other}
        return table.replace_schema_metadata({b"foreshard": json.dumps(raw).encode()})

    what = quarantined(lambda store, marker, index: rewrite(store, marker, index, change))
    assert f"was written for {field} {other!r}" in what


def test_a_wrong_row_count_is_quarantined():
    what = quarantined(lambda _, marker, index: relist(marker, index, rows=1))
    assert "its marker says 1" in what


def test_an_entry_pointing_outside_its_epochs_folder_is_never_followed():
    what = quarantined(lambda _, marker, index: relist(marker, index, key=KEYS.log(RUN, 2, 1, "first", "events")))
    assert "its key should start with 'flights/runs/demo/logs/e000001/events-r0001-'" in what


def test_a_rank_that_did_not_log_is_named():
    store = new_store()
    marker = train(store, 1)
    mark(store, replace(marker, logs=tuple(log for log in marker.logs if log.rank == 0)))
    found = errors(ingest(store, KEYS, RUN, range(1, 2)))
    assert [key for key, _ in found] == [KEYS.marker(RUN, 1)] * 2
    assert all("of rank 1" in what for _, what in found)


def test_a_rank_that_the_epoch_did_not_have_is_named():
    store = new_store()
    marker = train(store, 1)
    mark(store, replace(marker, world_size=1))
    found = errors(ingest(store, KEYS, RUN, range(1, 2)))
    assert [key for key, _ in found] == [log.key for log in marker.logs if log.rank == 1]
    assert all("is of rank 1, the epoch had 1 ranks" in what for _, what in found)


def test_a_step_that_nobody_logged_is_named():
    store = new_store()
    mark(store, train(store, 1, skip={(1, 4), (1, 5)}))
    ingested = ingest(store, KEYS, RUN, range(1, 2))
    assert [what for _, what in errors(ingested)] == [
        "lacks steps 4..5 of rank 1, which nobody logged; leave the epoch out"
    ] * 2
    assert ingested.samples.num_rows > 0


def test_an_epoch_logged_in_two_parts_is_whole():
    store = new_store()
    a = train(store, 1, write_id="a", steps=range(5))
    b = train(store, 1, write_id="b", steps=range(5, STEPS))
    mark(store, replace(b, logs=a.logs + b.logs))
    ingested = ingest(store, KEYS, RUN, range(1, 2))
    assert ingested.problems == ()
    assert sum(ingested.samples["count"].to_pylist()) == b.draws


def test_steps_logged_by_two_objects_count_once_and_are_named():
    store, clean = new_store(), new_store()
    mark(clean, train(clean, 1))
    a, b = train(store, 1, write_id="a"), train(store, 1, write_id="b", steps=range(3))
    mark(store, replace(a, logs=a.logs + b.logs))
    ingested = ingest(store, KEYS, RUN, range(1, 2))
    assert [key for key, _ in errors(ingested)] == sorted(
        (log.key for log in b.logs), key=lambda key: (key.split("/")[-1].split("-")[0], key)
    )
    assert ingested.events.equals(ingest(clean, KEYS, RUN, range(1, 2)).events)


def test_draws_that_do_not_add_up_are_named():
    store = new_store()
    marker = train(store, 1)
    mark(store, replace(marker, draws=marker.draws + 1))
    ((key, what),) = errors(ingest(store, KEYS, RUN, range(1, 2)))
    assert key == KEYS.marker(RUN, 1)
    assert f"says that {marker.draws + 1} samples were drawn, its logs hold {marker.draws}" in what


def test_another_attempts_objects_are_ignored_with_a_warning():
    store, clean = new_store(), new_store()
    mark(clean, train(clean, 1))
    train(store, 1, write_id="crashed")
    mark(store, train(store, 1))
    ingested = ingest(store, KEYS, RUN, range(1, 2))
    assert {problem.severity for problem in ingested.problems} == {"warning"}
    assert all("crashed" in problem.key for problem in ingested.problems)
    assert len(ingested.problems) == RANKS * 2
    assert ingested.events.equals(ingest(clean, KEYS, RUN, range(1, 2)).events)
    require_complete(ingested)


def test_a_count_below_one_is_quarantined():
    store = new_store()
    marker = train(store, 1)
    marker = rewrite(store, marker, 1, swap_column("count", lambda table: [0] * table.num_rows))
    mark(store, marker)
    assert any("count 0, below 1" in what for _, what in errors(ingest(store, KEYS, RUN, range(1, 2))))
