"""A crash at any write leaves the old or the new generation whole, and running again writes only what is missing."""

import shutil
from pathlib import Path

import pytest
from shardkit import StopError, StoppingStore, build_plan, make_world, splits_of

from foreshard.keys import LayoutRef
from foreshard.shards.repository import Repository
from foreshard.source import Snapshot, SourceReader
from foreshard.storage import ObjectStore

ROWS = 70


def old_plan(snapshot: Snapshot):
    return build_plan(snapshot, chunk_rows=12, order_seed=1)


def new_plan(snapshot: Snapshot, parent: LayoutRef | None):
    return build_plan(snapshot, chunk_rows=5, shard_chunks=2, order_seed=2, generation="demo.e000004", parent=parent)


def reshard(store: ObjectStore, snapshot: Snapshot) -> LayoutRef:
    """Do everything that one re-shard does to the store."""
    repository = Repository(store, "data")
    repository.save_snapshot(snapshot, splits_of(snapshot))
    plan = new_plan(snapshot, old_plan(snapshot).ref)
    ref = repository.save_plan(plan)
    repository.commit(repository.materialize(plan, SourceReader(snapshot)).manifest)
    repository.publish(ref)
    return ref


class Before:
    """A store with one published generation, copied afresh for every crash."""

    def __init__(self, folder: Path) -> None:
        world = make_world(folder, ROWS)
        self.folder = folder
        self.snapshot = world.snapshot
        self.old = world.make(old_plan(world.snapshot))
        world.repository.publish(self.old)
        self.copies = 0

    def copy(self) -> Path:
        self.copies += 1
        target = self.folder / f"copy-{self.copies}"
        shutil.copytree(self.folder / "store", target)
        return target


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Before:
    return Before(tmp_path_factory.mktemp("crash"))


def test_a_crash_at_any_write_leaves_a_whole_generation_and_a_retry_finishes_it(before):
    whole = StoppingStore(before.copy())
    new = reshard(whole, before.snapshot)
    steps, expected = whole.attempts, set(whole.writes)
    assert len(expected) == len(whole.writes) >= 15, "nothing is written twice"
    assert whole.writes[-1] == "data/current.json"

    for stop_at in range(steps):
        for lose_answer in (False, True):
            folder = before.copy()
            crashing = StoppingStore(folder, stop_at=stop_at, lose_answer=lose_answer)
            with pytest.raises(StopError):
                reshard(crashing, before.snapshot)

            survivor = Repository(ObjectStore.open(folder.as_uri()), "data")
            current = survivor.open()
            published = "data/current.json" in crashing.writes
            assert current.ref == (new if published else before.old)
            for generation in survivor.generations():
                for ref in survivor.layouts(generation):
                    report = survivor.verify(ref)
                    assert report.ok, (stop_at, lose_answer, report.problems)

            retry = StoppingStore(folder)
            assert reshard(retry, before.snapshot) == new
            assert survivor.open().ref == new
            written = [key for key in [*crashing.writes, *retry.writes] if "/publications/" not in key]
            wanted = [key for key in expected if "/publications/" not in key]
            assert sorted(written) == sorted(wanted), "each object written once in all"
            assert survivor.verify(new).ok
            shutil.rmtree(folder)


def test_a_retry_of_a_finished_reshard_writes_nothing(before):
    folder = before.copy()
    reshard(ObjectStore.open(folder.as_uri()), before.snapshot)
    retry = StoppingStore(folder)
    reshard(retry, before.snapshot)
    assert retry.writes == []


def test_the_header_is_written_after_everything_it_names(before):
    store = StoppingStore(before.copy())
    new = reshard(store, before.snapshot)
    repository = Repository(store, "data")
    header = repository.header(new)
    place = store.writes.index(f"data/layouts/{new.generation}/{new.plan_digest}/manifest.json")
    earlier = set(store.writes[:place]) | {meta.key for meta in store.list("data/shards")}
    assert {shard.key for shard in repository.open(new).shards} <= earlier
    parts = [f"data/layouts/{new.generation}/{new.plan_digest}/{part.name}" for part in header.parts.values()]
    assert set(parts) <= set(store.writes[:place])
    order = [header.parts[kind].name for kind in ("shards", "index", "manifest", "consistency")]
    assert [key.rsplit("/", 1)[1] for key in store.writes[place - 4 : place]] == order


def test_a_reader_keeps_its_generation_while_a_newer_one_appears(before):
    folder = before.copy()
    store = ObjectStore.open(folder.as_uri())
    repository = Repository(store, "data")
    pinned = repository.open()
    first = repository.read_chunks(pinned, range(len(pinned)))
    reshard(store, before.snapshot)
    assert repository.open().ref != pinned.ref
    again = repository.read_chunks(pinned, range(len(pinned)))
    assert all(a.equals(b) for a, b in zip(first, again, strict=True))
