"""The disk tier: the same order with and without it, one fetch of a chunk for a whole machine, and calm in trouble."""

import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch_world
from disk_world import BATCH, ROOMY, files, read, start_rank
from disk_world import load as load_from
from full_disk import files_up_to
from layouts import make_dataset, make_plan, publish
from serving import CountingStore, threads
from waiting import wait_until

from foreshard.errors import BudgetError, ConfigError, CorruptDataError
from foreshard.loader.options import DiskTier
from foreshard.loader.reading import chunk_fetcher, make_gatherer
from foreshard.loader.tiers import node_fetcher
from foreshard.prefetch.node.cache import NodeCache
from foreshard.prefetch.node.keys import chunk_keys, file_of
from foreshard.source import SourceReader


@pytest.fixture
def dataset(tmp_path):
    data = make_dataset(tmp_path, 400)
    publish(data, 0, seed=1)
    return data


def load(dataset, folder, store=None, **options):
    return load_from(store or dataset.repository.store, dataset.train_ids, folder, **options)


def plain(dataset, epochs=1, **options):
    loader = load(dataset, None, **options)
    found = read(loader, epochs)
    loader.close()
    return found


def train_bytes(dataset):
    manifest = dataset.repository.open()
    return int(manifest.nbytes[manifest.splits == 0].sum())


def test_each_chunk_is_fetched_once_in_all_epochs_and_the_order_is_the_same(dataset, tmp_path):
    store = CountingStore(dataset.repository.store)
    loader = load(dataset, tmp_path, store)
    assert (read(loader, 3) == plain(dataset, 3)).all()
    assert store.served == train_bytes(dataset)
    stats = loader._held.disk.stats()
    assert stats.disk_hits > 0
    assert stats.disk_hit_bytes > 2 * train_bytes(dataset)
    loader.close()
    again = load(dataset, tmp_path, store)
    assert (read(again) == plain(dataset)).all()
    assert store.served == train_bytes(dataset), "another job finds them there"
    again.close()
    assert threads() == []


def test_a_tier_smaller_than_the_dataset_keeps_its_budget_and_the_order(dataset, tmp_path):
    budget = train_bytes(dataset) // 3
    loader = load(dataset, tmp_path, nbytes=budget)
    found = []
    for batch in loader:
        found.append(batch.sample_ids)
        folder = tmp_path / "cache" / "chunks"
        sizes = [path.stat().st_size for path in folder.iterdir() if path.exists()] if folder.exists() else []
        assert sum(sizes) <= budget
    assert (np.concatenate(found) == plain(dataset)).all()
    assert loader._held.disk.stats().evicted > 0
    loader.close()


# -- several processes ------------------------------------------------------------------------------------


def test_four_ranks_on_a_node_fetch_each_chunk_once_in_total(dataset, tmp_path):
    ranks = [start_rank(dataset, tmp_path, rank, 4) for rank in range(4)]
    for rank in ranks:
        rank.join(100)
    assert [rank.exitcode for rank in ranks] == [0] * 4
    served = (tmp_path / "served").read_text().splitlines()
    assert len(served) == len(set(served)), "no chunk was fetched twice"
    assert sum(int(end) - int(start) for _, start, end in map(str.split, served)) == train_bytes(dataset)
    shares = [np.load(tmp_path / f"rank{number}.npy").reshape(-1, BATCH // 4) for number in range(4)]
    whole = plain(dataset, 2).reshape(-1, BATCH)
    assert (np.sort(np.concatenate(shares, axis=1)) == np.sort(whole)).all()


def test_a_rank_killed_in_a_fetch_holds_nobody_up(dataset, tmp_path):
    far = 400  # seconds; more than this test may last
    victim = start_rank(dataset, tmp_path, 0, 1, pause=60, timeout=far)
    wait_until((tmp_path / "served").exists)  # it waits for the store now
    loader = load(dataset, tmp_path, timeout=far)
    killing = threading.Timer(0.2, victim.kill)
    killing.start()
    found = read(loader)
    killing.join()
    victim.join(30)
    assert victim.exitcode == -signal.SIGKILL
    assert (found == plain(dataset)).all()
    cache = loader._held.disk
    assert cache.stats().stolen > 0
    assert cache.stats().overdue == 0, "nobody waited until the claim ran out"
    assert cache.used_bytes == train_bytes(dataset)
    assert sum(path.stat().st_size for path in (tmp_path / "cache" / "chunks").iterdir()) == cache.used_bytes
    assert list((tmp_path / "cache" / "parts").iterdir()) == []
    loader.close()


def test_a_forked_child_reads_on_through_the_tier(dataset, tmp_path):
    loader = load(dataset, tmp_path)
    whole = plain(dataset, 2)
    half = len(whole) // 2
    assert (read(loader) == whole[:half]).all()

    def child():
        assert (read(loader) == whole[half:]).all()
        assert loader._held.disk.stats().disk_hits > 0
        loader.close()

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (read(loader) == whole[half:]).all()
    loader.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_torch_loader_share_the_tier(tmp_path, method):
    data = torch_world.dataset_of(tmp_path)
    options = replace(torch_world.OPTIONS, disk=DiskTier(str(tmp_path / "cache"), ROOMY))
    with torch_world.loading(data, options=options, num_workers=2, multiprocessing_context=method) as loader:
        assert torch_world.ids(loader) == torch_world.expected(data, 1)[0]
    manifest = data.repository.open()
    keys = chunk_keys(manifest, np.flatnonzero(manifest.splits == 0).tolist())
    assert files(tmp_path) == sorted(map(file_of, keys))


# -- trouble ------------------------------------------------------------------------------------------------


def test_a_full_disk_changes_neither_the_order_nor_ends_the_epoch_and_is_reported(dataset, tmp_path):
    loader = load(dataset, tmp_path)
    with files_up_to(100):
        found = read(loader)
    assert (found == plain(dataset)).all()
    stats = loader._held.disk.stats()
    assert stats.write_failures > 0
    assert stats.bypassed > 0
    assert "could not be written" in stats.last_trouble
    assert files(tmp_path) == []
    assert loader._held.disk.used_bytes == 0
    loader.close()


def test_damaged_files_are_fetched_again(dataset, tmp_path):
    store = CountingStore(dataset.repository.store)
    loader = load(dataset, tmp_path, store)
    read(loader)
    loader.close()
    names = files(tmp_path)
    for number, name in enumerate(names):
        path = tmp_path / "cache" / "chunks" / name
        raw = path.read_bytes()
        path.write_bytes([raw[:10], bytes(len(raw)), raw[:-1] + bytes([raw[-1] ^ 1]), raw][number % 4])
    served = store.served
    loader = load(dataset, tmp_path, store)
    assert (read(loader) == plain(dataset)).all()
    assert served < store.served < served + train_bytes(dataset)
    # Short ones go when the first participant looks through the folder, the others as they are read.
    assert loader._held.disk.stats().damaged == sum(number % 4 in (1, 2) for number in range(len(names)))
    assert files(tmp_path) == names
    loader.close()


def test_what_is_damaged_in_the_store_is_never_published(dataset, tmp_path):
    manifest = dataset.repository.open()
    for shard in manifest.shards:
        path = dataset.repository.store.local_path(shard.key)
        path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    loader = load(dataset, tmp_path)
    with pytest.raises(CorruptDataError, match="checksum"):
        read(loader)
    assert files(tmp_path) == []
    wait_until(lambda: loader._held.disk.used_bytes == 0)
    loader.close()


@pytest.mark.parametrize(
    ("folder", "nbytes", "message"), [("", 5, "needs a folder"), ("/x", 0, "the disk tier in '/x': nbytes 0 must be")]
)
def test_a_tier_that_cannot_be_is_refused(folder, nbytes, message):
    with pytest.raises(ConfigError, match=message):
        DiskTier(folder, nbytes)


def test_a_tier_too_small_for_a_chunk_is_refused_with_the_bytes_needed(dataset, tmp_path):
    manifest = dataset.repository.open()
    largest = int(manifest.nbytes[manifest.splits == 0].max())
    with pytest.raises(
        BudgetError, match=f"has {largest - 1} bytes, the largest chunk has {largest}; give it at least"
    ):
        load(dataset, tmp_path, nbytes=largest - 1)
    load(dataset, tmp_path, nbytes=largest).close()


# -- what is one chunk ----------------------------------------------------------------------------------------


def test_what_two_layouts_have_in_common_is_fetched_once(dataset, tmp_path):
    store = CountingStore(dataset.repository.store)
    loader = load(dataset, tmp_path, store)
    first, whole = loader.layout, plain(dataset, 2)
    assert (read(loader) == whole[: len(whole) // 2]).all()
    served = store.served
    publish(dataset, 4, seed=1)  # the same plan for a later generation
    assert loader.refresh()
    assert loader.layout != first
    assert (read(loader) == whole[len(whole) // 2 :]).all()
    assert store.served == served
    loader.close()


def test_equal_keys_mean_equal_bytes_whatever_the_layout_and_compression(dataset):
    known = {}
    layouts = [dataset.repository.open(), publish(dataset, 4, seed=1), publish(dataset, 8, seed=2)]
    plan = replace(make_plan(dataset, 12, seed=1, chunk_rows=40), compression="zstd")
    layouts.append(dataset.repository.materialize(plan, SourceReader(dataset.snapshot)).manifest)
    for manifest in layouts:
        for chunk, key in enumerate(chunk_keys(manifest, range(len(manifest)))):
            start, end = int(manifest.starts[chunk]), int(manifest.ends[chunk])
            raw = bytes(dataset.repository.store.get_range(manifest.shard_key(chunk), start, end))
            assert known.setdefault(key, raw) == raw
    one, same, other, packed = ({*chunk_keys(m, range(len(m)))} for m in layouts)
    assert one == same
    assert not one & other
    assert not one & packed


# -- the fetcher itself -----------------------------------------------------------------------------------------


@pytest.fixture
def fetcher(dataset, tmp_path):
    """Makes fetchers of participants of one cache, and lists what they fetched from the store."""
    manifest, caches, fetched = dataset.repository.open(), [], []
    gatherer = make_gatherer(manifest, list(manifest.schema.names))
    origin = chunk_fetcher(dataset.repository.store, manifest, gatherer)

    def fetch(chunks):
        fetched.append(list(chunks))
        time.sleep(0.001)
        return origin(chunks)

    def make():
        caches.append(NodeCache(tmp_path / "cache", ROOMY, timeout=20))
        return node_fetcher(fetch, manifest, caches[-1], gatherer)

    yield make, fetched, caches, fetch
    for cache in caches:
        cache.close()


def run_of(dataset, length):
    """The first chunks of a layout that follow each other in one shard."""
    manifest = dataset.repository.open()
    shard = np.argmax(np.bincount(manifest.shard_of))
    chunks = np.flatnonzero(manifest.shard_of == shard)
    return chunks[np.argsort(manifest.starts[chunks])][:length].tolist()


def same(found, wanted):
    return [bytes(payload.raw) for payload in found] == [bytes(payload.raw) for payload in wanted]


def test_what_is_missing_between_chunks_that_are_there_is_fetched_in_runs(dataset, fetcher):
    make, fetched, _, plainly = fetcher
    chunks = run_of(dataset, 6)
    read = make()
    assert same(read([chunks[2]]), plainly([chunks[2]]))
    fetched.clear()
    found = read(chunks)
    assert fetched == [chunks[:2], chunks[3:]]
    assert same(found, plainly(chunks))
    fetched.clear()
    assert same(make()(chunks), found)
    assert fetched == []


def test_readers_of_overlapping_runs_never_wait_for_each_other_in_a_circle(dataset, fetcher):
    make, fetched, caches, plainly = fetcher
    chunks = run_of(dataset, 12)
    wanted = plainly(chunks)
    fetched.clear()
    wrong, rng = [], np.random.default_rng(1)
    spans = [sorted(rng.choice(13, 2, replace=False).tolist()) for _ in range(24)]

    def worker(read, span):
        if not same(read(chunks[slice(*span)]), wanted[slice(*span)]):
            wrong.append(span)

    readers = [make() for _ in range(3)]
    running = [threading.Thread(target=worker, args=(readers[i % 3], span)) for i, span in enumerate(spans)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(30)
    assert not any(thread.is_alive() for thread in running)
    assert wrong == []
    flat = [chunk for run in fetched for chunk in run]
    assert len(flat) == len(set(flat)), "each was fetched once"
    assert sum(cache.stats().overdue for cache in caches) == 0


def test_a_fetch_that_fails_gives_its_claims_up_at_once(dataset, fetcher):
    make, _, caches, plainly = fetcher
    read, chunks = make(), run_of(dataset, 3)
    manifest, failing = dataset.repository.open(), [True]
    gatherer = make_gatherer(manifest, list(manifest.schema.names))

    def sometimes(wanted):
        if failing.pop() if failing else False:
            raise CorruptDataError("on purpose")
        return plainly(wanted)

    troubled = node_fetcher(sometimes, manifest, caches[0], gatherer)
    with pytest.raises(CorruptDataError, match="on purpose"):
        troubled(chunks)
    assert caches[0].used_bytes == 0
    assert same(read(chunks), plainly(chunks))
