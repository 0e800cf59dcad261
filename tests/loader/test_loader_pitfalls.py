"""What other loaders stumbled over and no other test here covers; `docs/pitfalls.md` lists them all."""

import hashlib
from pathlib import Path

import pytest
from disk_world import load, read
from layouts import make_dataset, publish


@pytest.fixture
def dataset(tmp_path):
    data = make_dataset(tmp_path, 400)
    publish(data, 0, seed=1)
    return data


def mappings(kind):
    """Address ranges of this process's mappings of a kind."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    return {line[0] for line in lines if len(line) > 5 and line[5].startswith(kind)}


def test_memory_for_chunks_is_taken_once_and_not_for_each_batch_nor_by_name(dataset, tmp_path):
    before = mappings("/dev/shm")  # noqa: S108 - no file of ours
    loader = load(dataset.repository.store, dataset.train_ids, tmp_path)
    arena, seen = loader._held.arena, set()
    for _ in range(2):
        for _ in loader:
            seen.add(arena.memory.__array_interface__["data"][0])
            assert mappings("/dev/shm") <= before  # noqa: S108 - no file of ours
    assert len(seen) == 1, "one piece of memory, from the first batch to the last"
    loader.close()
    assert arena._memory is None


def digests(folder):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


def test_what_is_evicted_is_never_a_source_nor_a_stored_object(dataset, tmp_path):
    manifest = dataset.repository.open()
    largest = int(manifest.nbytes[manifest.splits == 0].max())
    source, store = digests(tmp_path / "source"), digests(tmp_path / "store")
    loader = load(dataset.repository.store, dataset.train_ids, tmp_path, nbytes=2 * largest)
    read(loader, 2)
    assert loader.last_epoch.stats.disk_evicted > 0
    loader.close()
    assert digests(tmp_path / "source") == source
    assert digests(tmp_path / "store") == store
