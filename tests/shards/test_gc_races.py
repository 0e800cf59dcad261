"""Readers, writers and collectors race and get killed, in real processes on real stores: nothing is left dangling."""

import multiprocessing
import os
import time
from dataclasses import replace

import pytest
from gc_racers import KEYS, Place, collect, collect_and_die, collect_until, hold, read, start, write
from shardkit import build_plan, sample_table, splits_of, write_source

from foreshard.keys import generation_key
from foreshard.shards.gc_state import read_state
from foreshard.shards.lease_record import find_leases
from foreshard.shards.repository import Repository
from foreshard.source import SourceReader

ROUNDS = 6


@pytest.fixture
def place(any_location, tmp_path) -> Place:
    """A repository with three published generations."""
    snapshot = write_source(tmp_path / "source", sample_table(60))
    found = Place(any_location.url, any_location.endpoint, snapshot)
    repository = found.open()
    repository.save_snapshot(snapshot, splits_of(snapshot))
    for number in range(3):
        plan = build_plan(snapshot, order_seed=50 + number, generation=generation_key("old", number))
        repository.publish(repository.commit(repository.materialize(plan, SourceReader(snapshot)).manifest))
    return found


def check_whole(repository: Repository) -> None:
    refs = [ref for generation in repository.generations() for ref in repository.layouts(generation)]
    assert repository.current().ref in refs
    for ref in refs:
        report = repository.verify(ref)
        assert report.ok, report.problems


def test_whatever_readers_writers_and_collectors_do_at_once_nothing_is_left_dangling(place):
    repository, context = place.open(), multiprocessing.get_context("forkserver")
    done, deleted, reads = context.Event(), context.Value("q", 0), context.Value("q", 0)
    writers = [start(write, place, run, ROUNDS) for run in ("a", "b")]
    others = [start(collect_until, place, done, deleted) for _ in range(2)]
    others += [start(read, place, seed, done, reads) for seed in range(3)]
    for writer in writers:
        writer.join(60)
    done.set()
    for process in others:
        process.join(30)
    assert [process.exitcode for process in [*writers, *others]] == [0] * 7
    check_whole(repository)
    assert reads.value > 0
    assert find_leases(repository.store, KEYS) == []
    time.sleep(1.1)  # S3 servers tell the time in whole seconds: what was written in this one is not yet older than it
    last = collect(repository)
    assert last is not None
    assert last.complete
    assert deleted.value + last.deleted > 0
    check_whole(repository)
    assert {ref.generation for ref in last.kept} == {generation_key(run, ROUNDS - 1) for run in "ab"} | {"old.e000002"}
    assert collect(repository).keys == []


def test_a_collector_killed_again_and_again_leaves_every_layout_whole_and_gets_done(place):
    repository = place.open()
    for at in range(3, 1000, 2):
        killed = start(collect_and_die, place, at)
        killed.join(30)
        check_whole(repository)
        # What the killed one held runs out.
        state, tag = read_state(repository.store, KEYS)
        if state.phase == "sweeping":
            assert killed.exitcode == -9
            repository.store.swap(KEYS.gc, replace(state, phase="idle", beat=state.beat + 1).to_json(), tag)
        repository.store.delete([found.key for found in find_leases(repository.store, KEYS)])
        if killed.exitcode == 0:
            break
    assert at > 9, "it was killed at several moments before"
    time.sleep(1.1)  # as above
    collect(repository)
    assert collect(repository).keys == []
    assert repository.generations() == ["old.e000002"]


def test_the_lease_of_a_reader_that_was_killed_runs_out_by_the_stores_clock(place):
    repository, context = place.open(), multiprocessing.get_context("forkserver")
    old = list(repository.publications())[-1].ref
    holding = context.Event()
    reader = start(hold, place, old, 1.0, holding)
    assert holding.wait(30)
    time.sleep(1.5)  # longer than its lease lives without its thread
    assert old in collect(repository).kept
    os.kill(reader.pid, 9)
    reader.join(10)
    deadline = time.monotonic() + 30
    while old not in collect(repository).doomed:
        assert time.monotonic() < deadline, "the lease outlives its reader for good"
        time.sleep(0.2)
    assert find_leases(repository.store, KEYS) == []
    check_whole(repository)
