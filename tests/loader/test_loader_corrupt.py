"""A chunk damaged in the store: the policy is followed, and a substitute is the same for every reader and run."""

import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import FaultProxy
from layouts import Dataset, make_dataset, make_plan, publish
from serving import CountingStore

from foreshard.errors import ConfigError, CorruptDataError
from foreshard.loader.dealing import Place
from foreshard.loader.loader import Loader
from foreshard.loader.options import DiskTier, LoaderOptions
from foreshard.loader.order import UniformOrder
from foreshard.prefetch.arena import ASIDE, Arena, Payload
from foreshard.shards.repository import Repository
from foreshard.source import SourceReader, take_snapshot
from foreshard.storage import ObjectStore

BATCH = 16
MEMORY = 6000


@pytest.fixture
def dataset(tmp_path):
    data = make_dataset(tmp_path, 400)
    publish(data, 0, seed=1)
    return data


def damage(dataset, *chunks, manifest=None):
    """Turn one bit in the middle of each chunk where the store keeps it; return the manifest."""
    manifest = manifest or dataset.repository.open()
    store = dataset.repository.store
    for chunk in chunks:
        key = manifest.shard_key(chunk)
        raw = bytearray(store.get(key))
        raw[(int(manifest.starts[chunk]) + int(manifest.ends[chunk])) // 2] ^= 4
        store.delete([key])
        store.put(key, bytes(raw))
    return manifest


def largest(manifest, count=1):
    """The chunks of the train split with the most rows."""
    train = np.flatnonzero(manifest.splits == 0)
    return train[np.argsort(-manifest.rows[train], kind="stable")][:count].tolist()


def make_loader(dataset, policy, *, store=None, **options):
    repository = dataset.repository if store is None else Repository(store, "demo")
    settings = LoaderOptions(BATCH, on_corrupt=policy, **{"memory": MEMORY, **options})
    return Loader(repository, UniformOrder(dataset.train_ids, 1), settings)


def expected(loader, epoch=1):
    return loader.order.ids(epoch, 0, loader.order.length(epoch) // BATCH * BATCH)


def read(loader, epochs=1):
    """Read epochs to their ends; return the sample ids that the order asked for, and those that were read."""
    wanted, used = [], []
    for _ in range(epochs):
        for batch in loader:
            assert len(batch) == len(batch.rows)
            assert (batch["value"] == batch["sample_id"] * 10).all()
            assert batch.rows.column("text").to_pylist() == [f"row {i}" for i in batch["sample_id"]]
            wanted.append(batch.sample_ids)
            used.append(batch["sample_id"])
    loader.close()
    return np.concatenate(wanted), np.concatenate(used)


@pytest.mark.parametrize("policy", ["raise", "refetch"])
def test_a_damaged_chunk_raises_by_name_when_its_samples_are_due(dataset, policy):
    (bad,) = largest(dataset.repository.open())
    manifest = damage(dataset, bad)
    loader = make_loader(dataset, policy)
    seen = []
    with pytest.raises(CorruptDataError, match=f"chunk {bad} of layout .* of shard '{manifest.shard_key(bad)}'"):
        seen.extend(loader)
    whole = expected(loader)
    first = int(np.flatnonzero(manifest.chunk_of[whole] == bad)[0]) // BATCH
    assert len(seen) <= first, "no batch with its samples comes"
    assert all((batch["sample_id"] == batch.sample_ids).all() for batch in seen)
    loader.close()


@pytest.mark.parametrize("dealing", ["position", "owner"])
def test_other_samples_take_the_place_of_a_damaged_chunks_and_all_others_stay(dataset, caplog, dealing):
    bad = largest(dataset.repository.open(), 2)
    manifest = damage(dataset, *bad)
    loader = make_loader(dataset, "substitute", dealing=dealing)
    whole = np.concatenate([expected(loader, epoch) for epoch in (1, 2, 3)])
    found = loader.substituted
    with caplog.at_level(logging.WARNING, "foreshard.loader.corrupt"):
        wanted, used = read(loader, epochs=3)
    assert (wanted == whole).all()
    lost = np.isin(manifest.chunk_of[wanted], bad)
    assert lost.any()
    assert (used[~lost] == wanted[~lost]).all()
    assert (manifest.splits[manifest.chunk_of[used]] == 0).all()
    assert not np.isin(manifest.chunk_of[used], bad).any()
    assert sorted(found) == sorted(bad)
    for chunk in bad:
        mine = wanted[manifest.chunk_of[wanted] == chunk]
        assert (used[manifest.chunk_of[wanted] == chunk] == found[chunk].sample_ids[manifest.row_of[mine]]).all()
        assert set(manifest.chunk_of[found[chunk].sample_ids]) == {found[chunk].donor}
    # One warning for each, although with so little memory they are needed again and again.
    assert sorted(int(record.message.split("chunk ")[1].split()[0]) for record in caplog.records) == sorted(bad)


def test_substitutes_are_the_same_in_every_run_for_every_world_worker_memory_and_dealing(dataset):
    manifest = dataset.repository.open()
    bad = largest(manifest, 3)
    damage(dataset, *bad)
    whole = expected(make_loader(dataset, "substitute"))
    settings = [{}, {}, {"memory": 60_000, "max_concurrency": 1}, {"dealing": "owner"}]
    taken = [dict(zip(*read(make_loader(dataset, "substitute", **each)), strict=True)) for each in settings]
    for world, workers in ((2, 1), (2, 2)):
        together = {}
        for rank in range(world):
            for worker in range(workers):
                place = Place(rank, world, worker, workers)
                together.update(zip(*read(make_loader(dataset, "substitute", place=place)), strict=True))
        taken.append(together)
    assert all(one == taken[0] for one in taken)
    assert sorted(taken[0]) == sorted(whole)
    assert {int(manifest.chunk_of[i]) for i in whole if taken[0][i] != i} == set(bad)


def test_a_donor_that_is_damaged_too_is_passed_over(dataset):
    (bad,) = largest(dataset.repository.open())
    damage(dataset, bad)
    donors = []
    for _ in range(3):
        loader = make_loader(dataset, "substitute")
        found = loader.substituted
        read(loader)
        donors.append(found[bad].donor)
        damage(dataset, donors[-1])
    assert len({bad, *donors}) == 4


def test_a_substitute_does_not_depend_on_the_rest_of_the_layout(tmp_path):
    data = make_dataset(tmp_path, 400)
    first = make_plan(data, 0, seed=1, chunk_rows=40)
    donors = []
    for epoch, nodes in ((0, first.nodes), (3, tuple(reversed(first.nodes)))):
        # The same chunks in other shards on other nodes.
        plan = replace(first, generation=f"demo.e{epoch:06d}", nodes=nodes)
        data.repository.save_plan(plan)
        made = data.repository.materialize(plan, SourceReader(data.snapshot))
        data.repository.publish(data.repository.commit(made.manifest))
        manifest = data.repository.open()
        (bad,) = largest(manifest)
        damage(data, bad)
        loader = make_loader(data, "substitute")
        found = loader.substituted
        read(loader)
        donors.append(found[bad].sample_ids.tolist())
        damage(data, bad)  # the same bit again: it is whole
    assert donors[0] == donors[1]


def test_where_nothing_fits_a_damaged_chunk_it_raises_and_says_so(tmp_path):
    data = make_dataset(tmp_path, 12)
    publish(data, 0, seed=1, chunk_rows=12)
    manifest = data.repository.open()
    train = np.flatnonzero(manifest.splits == 0).tolist()
    damage(data, *train)
    loader = Loader(
        data.repository, UniformOrder(data.train_ids, 1), LoaderOptions(2, memory=MEMORY, on_corrupt="substitute")
    )
    with pytest.raises(CorruptDataError, match="nothing can be read in its place"):
        list(loader)
    loader.close()


def test_what_is_read_in_a_chunks_place_is_not_kept_on_disk_as_that_chunk(dataset, tmp_path):
    (bad,) = largest(dataset.repository.open())
    damage(dataset, bad)
    disk = DiskTier(str(tmp_path / "disk"), 1 << 20)
    without = read(make_loader(dataset, "substitute"))
    for _ in range(2):
        wanted, used = read(make_loader(dataset, "substitute", disk=disk))
        assert (used == without[1]).all()
        assert (used != wanted).any()
    damage(dataset, bad)  # the same bit again: it is whole
    wanted, used = read(make_loader(dataset, "raise", disk=disk))
    assert (used == wanted).all()


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_columns_of_every_kind_come_whole_from_a_substitute_of_fewer_rows(tmp_path, compression):
    rows = 300
    random = np.random.default_rng(0)
    words = [None if i % 7 == 0 else "w" * int(random.integers(0, 60)) for i in range(rows)]
    table = pa.table(
        {
            "number": pa.array([None if i % 5 == 0 else i for i in range(rows)], pa.int16()),
            "flag": pa.array([i % 3 == 0 for i in range(rows)]),
            "word": pa.array(words, pa.large_string()),
            "kind": pa.array([("a", "b", None)[i % 3] for i in range(rows)]).dictionary_encode(),
            "list": pa.array([list(range(i % 4)) for i in range(rows)], pa.list_(pa.int32())),
        }
    )
    (tmp_path / "source").mkdir()
    pq.write_table(table, tmp_path / "source" / "a.parquet")
    snapshot = take_snapshot((tmp_path / "source").as_uri())
    repository = Repository(ObjectStore.open((tmp_path / "store").as_uri()), "demo")
    data = Dataset(repository, snapshot, np.zeros(rows, np.uint8))
    repository.save_snapshot(snapshot, data.splits)
    plan = replace(make_plan(data, 0, seed=3, chunk_rows=40), compression=compression)
    repository.save_plan(plan)
    repository.publish(repository.commit(repository.materialize(plan, SourceReader(snapshot)).manifest))
    manifest = repository.open()
    smallest, *_, biggest = np.argsort(manifest.nbytes).tolist()
    damage(data, smallest, biggest)
    loader = make_loader(data, "substitute", memory=30_000, remainder="keep")
    found = loader.substituted
    read_ids = []
    for batch in loader:
        ids = batch["sample_id"]
        source = table.take(pa.array(ids))
        for name in table.column_names:
            assert batch.rows.column(name).to_pylist() == source.column(name).to_pylist(), name
        read_ids += ids.tolist()
    loader.close()
    assert len(read_ids) == rows
    assert sorted(found) == sorted([smallest, biggest])
    assert all(len(one.sample_ids) == manifest.rows[chunk] for chunk, one in found.items())


@pytest.mark.s3
def test_bytes_damaged_on_their_way_are_read_again_unless_the_policy_is_to_raise(tmp_path, seaweedfs_location):
    data = make_dataset(tmp_path, 400, seaweedfs_location.open())
    publish(data, 0, seed=1, chunk_rows=12)
    with FaultProxy(seaweedfs_location.endpoint, 3, {}) as proxy:
        store = ObjectStore.open(seaweedfs_location.url, endpoint=proxy.endpoint)
        for policy in ("refetch", "substitute"):
            loader = make_loader(data, policy, store=store, lease_ttl=0)
            proxy.rates = {"flip_response": 0.1}
            wanted, used = read(loader)
            assert (used == wanted).all()
            assert (wanted == expected(loader)).all()
            assert not loader.substituted
            proxy.rates = {}
        assert proxy.counts["flip_response"]
        loader = make_loader(data, "raise", store=store, lease_ttl=0)
        proxy.rates = {"flip_response": 0.5}
        with pytest.raises(CorruptDataError, match="has checksum"):
            list(loader)
        proxy.rates = {}
        loader.close()


@pytest.mark.parametrize(("policy", "reads"), [("raise", 1), ("substitute", 2)])
def test_a_damaged_chunk_is_read_once_to_raise_and_once_more_before_it_is_substituted(dataset, policy, reads):
    (bad,) = largest(dataset.repository.open())
    manifest = damage(dataset, bad)
    ranges = []

    class Recording(CountingStore):
        def get_range(self, key, start, end):
            ranges.append((key, start, end))
            return super().get_range(key, start, end)

        def ready(self, key, start, end):
            ranges.append((key, start, end))
            return True

    loader = make_loader(dataset, policy, store=Recording(dataset.repository.store))
    if policy == "raise":
        with pytest.raises(CorruptDataError, match="has checksum"):
            list(loader)
        loader.close()
    else:
        read(loader, epochs=2)
    where = (manifest.shard_key(bad), int(manifest.starts[bad]), int(manifest.ends[bad]))
    assert ranges.count(where) == reads


def test_an_unknown_policy_is_refused():
    with pytest.raises(ConfigError, match="on_corrupt 'skip' is unknown; use 'raise', 'refetch', 'substitute'"):
        LoaderOptions(1, on_corrupt="skip")


def test_a_substitutes_rows_are_known_wherever_it_lies_in_memory_and_forgotten_with_it():
    arena = Arena(8 * 40, 8, 1)
    places = np.zeros(1, np.int64)
    of = [arena.put(Payload(memoryview(bytes(8)), places, rows)) for rows in range(1, 31)]
    assert arena.rows[of].tolist() == list(range(1, 31))
    arena.put_aside(Payload(memoryview(bytes(8)), places, 77))
    settled = arena.settle()
    assert arena.rows[[ASIDE, settled]].tolist() == [77, 77]
    arena.put_aside(Payload(memoryview(bytes(8)), places))
    arena.free(of[3])
    arena.compact()
    again = arena.put(Payload(memoryview(bytes(8)), places))
    assert again == of[3]
    assert arena.rows[[ASIDE, again, settled, of[4]]].tolist() == [0, 0, 77, 5]
