"""The pointer moves by compare-and-swap: no update is lost, and no run goes back to an older boundary."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
from obstore.store import LocalStore
from shardkit import World, build_plan, flip_byte, make_world

from foreshard.errors import ConflictError, CorruptDataError
from foreshard.keys import DatasetKeys, LayoutRef, generation_key
from foreshard.shards.pointer import ATTEMPTS, move_pointer, publications
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore


@pytest.fixture
def world(tmp_path) -> World:
    return make_world(tmp_path, rows=60)


def commit_epochs(world: World, run: str, epochs: range) -> list[LayoutRef]:
    plan = build_plan(world.snapshot)
    return [world.make(replace(plan, generation=generation_key(run, epoch))) for epoch in epochs]


def repository(world: World) -> Repository:
    """Return a repository of its own, as another process would have."""
    return Repository(ObjectStore.open((world.folder / "store").as_uri()), "data")


def test_publishing_moves_the_pointer_and_raises_the_fence(world):
    refs = commit_epochs(world, "demo", range(3))
    for number, ref in enumerate(refs, start=1):
        published = world.repository.publish(ref)
        assert published.changed
        assert published.current == world.repository.current()
        assert (published.current.ref, published.current.fence) == (ref, number)
    assert world.repository.open().ref == refs[-1]


def test_publishing_what_is_current_changes_nothing(world):
    [ref] = commit_epochs(world, "demo", range(1))
    first = world.repository.publish(ref)
    again = world.repository.publish(ref)
    assert not again.changed
    assert again.current == first.current
    assert "current already" in again.reason


def test_an_older_boundary_never_replaces_a_newer_one_of_its_run(world):
    old, new = commit_epochs(world, "demo", range(2))
    [other] = commit_epochs(world, "other", range(1))
    world.repository.publish(new)
    late = world.repository.publish(old)
    assert not late.changed
    assert late.reason == f"run 'demo' has published epoch 1 already, newer than {old.generation}"
    assert world.repository.publish(other).changed, "another run's boundary is not compared"
    assert not world.repository.publish(old).changed, "not even after another run published in between"
    assert world.repository.publish(new).changed
    assert world.repository.current().fence == 3


def test_another_layout_of_the_same_boundary_may_replace_it(world):
    [first] = commit_epochs(world, "demo", range(1))
    second = world.make(build_plan(world.snapshot, order_seed=9))
    world.repository.publish(first)
    assert world.repository.publish(second).changed
    assert world.repository.open().ref == second


def race(world: World, jobs: list[list[LayoutRef]]):
    start = Barrier(len(jobs))

    def work(refs: list[LayoutRef]):
        own = repository(world)
        start.wait(timeout=10)
        return [own.publish(ref) for ref in refs]

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [published for batch in pool.map(work, jobs) for published in batch]


def test_racing_publishers_of_two_runs_lose_no_update(world):
    jobs = [commit_epochs(world, run, range(25)) for run in ("a", "b")]
    published = race(world, jobs)
    assert all(p.changed for p in published)
    assert sorted(p.current.fence for p in published) == list(range(1, 51))
    assert len({p.current.token for p in published}) == 50
    current = world.repository.current()
    assert (current.fence, current.boundaries) == (50, {"a": 24, "b": 24})


def test_racing_publishers_of_one_run_end_at_its_newest_boundary(world):
    refs = commit_epochs(world, "demo", range(40))
    published = race(world, [refs[0::2], refs[1::2], refs[::-4], refs[::3]])
    moved = sorted((p.current.fence, p.current.ref.generation) for p in published if p.changed)
    assert [fence for fence, _ in moved] == list(range(1, len(moved) + 1))
    generations = [generation for _, generation in moved]
    assert generations == sorted(generations), "boundaries only grow with the fence"
    assert world.repository.current().ref == refs[-1]
    assert world.repository.current().fence == len(moved)


def test_two_publishers_racing_200_times_lose_nothing_and_never_go_back(any_location):
    """In every round one run's newer boundary races its older one, or two runs race each other."""
    keys, rounds = DatasetKeys("data"), 200
    start = Barrier(2)

    def publish(writer: int):
        store, moved = any_location.open(), []
        for number in range(rounds):
            run = "demo" if number % 2 else f"run{writer}"
            ref = LayoutRef(generation_key(run, 2 * number + writer), f"{writer:032x}")
            start.wait(timeout=30)
            done = move_pointer(store, keys, ref)
            assert done.changed or (run == "demo" and writer == 0), "only the older boundary may give way"
            moved += [done.current] if done.changed else []
        return moved

    with ThreadPoolExecutor(2) as pool:
        moved = [current for batch in pool.map(publish, range(2)) for current in batch]
    store = any_location.open()
    history = list(publications(store, keys))
    assert sorted(current.fence for current in moved) == list(range(1, len(moved) + 1))
    assert sorted(history, key=lambda c: c.fence) == sorted(moved, key=lambda c: c.fence), "nothing is lost or invented"
    for run in ("demo", "run0", "run1"):
        epochs = [c.ref.generation for c in reversed(history) if c.ref.generation.startswith(f"{run}.")]
        assert epochs == sorted(epochs), "no older boundary ever replaced a newer one"
        assert len(epochs) >= rounds // 2
    assert len(list(store.list(keys.publications))) == len(moved), "lost proposals leave nothing behind"


class InterferingStore(ObjectStore):
    """A real local store in which something happens right before or after each swap of the pointer by us."""

    def __init__(self, world: World, before=None, after=None) -> None:
        folder = world.folder / "store"
        super().__init__(folder.as_uri(), LocalStore(folder))
        self.before, self.after, self.swaps = before, after, 0

    def swap(self, key, data, expected):
        if not key.endswith("/current.json"):
            super().swap(key, data, expected)
            return
        self.swaps += 1
        if self.before:
            self.before(self.swaps)
        super().swap(key, data, expected)
        if self.after:
            self.after(self.swaps)


def test_a_swap_whose_answer_was_lost_is_recognised_as_our_own(world):
    """A client that retries a swap whose first answer was lost gets a conflict for its own write."""

    def conflict(_: int) -> None:
        raise ConflictError("replaced meanwhile")

    refs = commit_epochs(world, "demo", range(2))
    store = InterferingStore(world, after=conflict)
    for number, ref in enumerate(refs, start=1):
        published = Repository(store, "data").publish(ref)
        assert published.changed
        assert published.current.fence == number
    assert store.swaps == 2
    assert world.repository.current().ref == refs[1]


def test_a_lost_race_is_decided_anew_from_what_won(world):
    old, new = commit_epochs(world, "demo", range(2))
    store = InterferingStore(world, before=lambda _: repository(world).publish(new))
    late = Repository(store, "data").publish(old)
    assert not late.changed
    assert late.current.ref == new
    assert (store.swaps, world.repository.current().fence) == (1, 1)


def test_a_publisher_that_always_loses_gives_up_with_a_clear_error(world):
    [ref] = commit_epochs(world, "demo", range(1))
    others = commit_epochs(world, "other", range(2))
    first, second = (repository(world) for _ in range(2))
    del second
    plan = build_plan(world.snapshot, order_seed=4)
    rivals = [others[1], world.make(replace(plan, generation=others[1].generation))]
    store = InterferingStore(world, before=lambda n: first.publish(rivals[n % 2]))
    with pytest.raises(ConflictError, match=f"replaced by others {ATTEMPTS} times while publishing {ref}"):
        Repository(store, "data").publish(ref)
    assert world.repository.current().fence == ATTEMPTS


@pytest.mark.parametrize("damage", ["flip", "cut", "nonsense"])
def test_a_damaged_pointer_is_an_error_not_a_fresh_start(world, damage):
    [ref] = commit_epochs(world, "demo", range(1))
    world.repository.publish(ref)
    path = world.path("data/current.json")
    if damage == "flip":
        flip_byte(path, path.read_bytes().index(b'"fence"') + 2)
    else:
        path.write_bytes(path.read_bytes()[:20] if damage == "cut" else b"[1]")
    for action in (world.repository.open, lambda: world.repository.publish(ref)):
        with pytest.raises(CorruptDataError, match=r"data/current\.json.*publish"):
            action()
