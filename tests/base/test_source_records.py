"""Recorded snapshots: their block checksums and splits are verified when they are loaded, over a link that may fail."""

import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pytest
from sourcekit import damage, random_table, write

from foreshard.errors import ConfigError, CorruptDataError, SourceError
from foreshard.keys import DatasetKeys
from foreshard.shards.records import load_snapshot, load_splits, save_snapshot
from foreshard.shards.refetch import ATTEMPTS
from foreshard.source import SourceReader, take_snapshot
from foreshard.splits import encode_splits
from foreshard.storage import ObjectStore

KEYS = DatasetKeys("data")


@pytest.fixture
def snapshot(tmp_path):
    return take_snapshot(write(tmp_path / "source", random_table(2500), random_table(30, seed=1)).as_uri())


@pytest.fixture
def splits(snapshot):
    return (np.arange(snapshot.rows) % 3).astype(np.uint8)


@pytest.fixture
def store(tmp_path):
    return ObjectStore.open((tmp_path / "store").as_uri())


@pytest.fixture
def saved(store, snapshot, splits):
    save_snapshot(store, KEYS, snapshot, splits)
    return store


class _FlippingStore:
    """A store behind a network that flips a bit of every byte in the middle of the first answers for each object."""

    local = False

    def __init__(self, store, times, only=""):
        self._store, self._times, self._only, self.gets = store, times, only, {}

    def __getattr__(self, name):
        return getattr(self._store, name)

    def get(self, key):
        raw = bytearray(self._store.get(key))
        self.gets[key] = self.gets.get(key, 0) + 1
        if key.endswith(self._only) and self.gets[key] <= self._times:
            raw[len(raw) // 3 : len(raw) * 2 // 3] = bytes(b ^ 4 for b in raw[len(raw) // 3 : len(raw) * 2 // 3])
        return bytes(raw)


def _legacy_splits(codes):
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"split": pa.array(codes)})
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def test_a_loaded_snapshot_reads_with_its_checksums(any_location, snapshot, splits):
    store = any_location.open()
    save_snapshot(store, KEYS, snapshot, splits)
    found = load_snapshot(store, KEYS, snapshot.fingerprint)
    assert found == snapshot
    assert found.checksums().sums.tolist() == snapshot.checksums().sums.tolist()
    assert SourceReader(found).take(np.array([2510]))["id"].to_pylist() == [10]
    assert load_splits(store, KEYS, snapshot.fingerprint).tolist() == splits.tolist()


def test_checksums_are_read_when_they_are_needed(saved, snapshot):
    saved.delete([KEYS.blocks(snapshot.fingerprint)])
    found = load_snapshot(saved, KEYS, snapshot.fingerprint)
    assert found.rows == snapshot.rows


def test_a_snapshot_travels_to_another_process(saved, snapshot):
    found = pickle.loads(  # noqa: S301
        pickle.dumps(load_snapshot(saved, KEYS, snapshot.fingerprint))
    )
    assert found.checksums().record() == snapshot.checksums().record()
    assert SourceReader(found, ["id"]).take(np.array([3]))["id"].to_pylist() == [3]


def test_a_flip_on_the_way_is_fetched_again_and_one_that_stays_is_named(saved, snapshot, splits):
    fingerprint = snapshot.fingerprint
    flipping = _FlippingStore(saved, 2)
    found = load_snapshot(flipping, KEYS, fingerprint).checksums().sums
    assert found.tolist() == snapshot.checksums().sums.tolist()
    assert load_splits(flipping, KEYS, fingerprint).tolist() == splits.tolist()
    assert list(flipping.gets.values()) == [3, 3, 3]
    broken = _FlippingStore(saved, ATTEMPTS)
    with pytest.raises(CorruptDataError, match=r"snapshot\.json' is damaged: .*take the snapshot again"):
        load_snapshot(broken, KEYS, fingerprint)
    with pytest.raises(CorruptDataError, match=r"splits\.arrow' is damaged: .*digest.*; delete it, take the snapshot"):
        load_splits(broken, KEYS, fingerprint)
    found = load_snapshot(_FlippingStore(saved, ATTEMPTS, only="blocks.arrow"), KEYS, fingerprint)
    with pytest.raises(CorruptDataError, match=r"blocks\.arrow' is damaged: .*; take the snapshot again"):
        SourceReader(found).take(np.array([0]))


def test_a_flipped_bit_in_the_record_is_never_believed(saved, snapshot, tmp_path):
    """Not even in what the fingerprint leaves out: the URL, the tags and the digest of the checksums."""
    path = tmp_path / "store" / KEYS.snapshot(snapshot.fingerprint)
    raw = path.read_bytes()
    for position in range(len(raw)):
        damage(path, position, bit=position % 7)
        try:
            found = load_snapshot(saved, KEYS, snapshot.fingerprint)
        except CorruptDataError:
            pass
        else:  # white space, or a digit that spells the same value
            assert found == snapshot
            assert found.blocks is not None
            assert found.blocks.record() == snapshot.checksums().record()
        damage(path, position, bit=position % 7)


def test_checksums_of_another_snapshot_are_refused(saved, snapshot, tmp_path):
    other = take_snapshot(write(tmp_path / "other", random_table(2500, seed=7), random_table(30, seed=1)).as_uri())
    save_snapshot(saved, KEYS, other, (np.arange(other.rows) % 3).astype(np.uint8))
    shutil.copy(
        tmp_path / "store" / KEYS.blocks(other.fingerprint), tmp_path / "store" / KEYS.blocks(snapshot.fingerprint)
    )
    with pytest.raises(CorruptDataError, match=r"checksums are not the \d+ that the snapshot records"):
        SourceReader(load_snapshot(saved, KEYS, snapshot.fingerprint)).take(np.array([0]))


def test_what_was_recorded_without_checksums_is_told_and_mended_by_saving_again(store, snapshot, splits):
    fingerprint = snapshot.fingerprint
    record = {k: v for k, v in snapshot.to_record().items() if k != "blocks"}
    store.put(KEYS.snapshot(fingerprint), json.dumps(record).encode())
    store.put(KEYS.splits(fingerprint), _legacy_splits(splits))
    old = load_snapshot(store, KEYS, fingerprint)
    assert old == snapshot
    with pytest.raises(SourceError, match=r"has no block checksums.*take the snapshot again"):
        SourceReader(old)
    with pytest.raises(SourceError, match="has no block checksums"):
        save_snapshot(store, KEYS, old, splits)
    with pytest.raises(CorruptDataError, match=r"carry no digest .*take the snapshot again"):
        load_splits(store, KEYS, fingerprint)

    save_snapshot(store, KEYS, snapshot, splits)
    assert SourceReader(load_snapshot(store, KEYS, fingerprint)).take(np.array([1]))["id"].to_pylist() == [1]
    assert load_splits(store, KEYS, fingerprint).tolist() == splits.tolist()


def test_damaged_checksums_are_mended_by_saving_again_and_splits_stay_what_they_were(saved, snapshot, splits, tmp_path):
    path = tmp_path / "store" / KEYS.blocks(snapshot.fingerprint)
    damage(path, path.stat().st_size // 2)
    save_snapshot(saved, KEYS, snapshot, splits)
    assert SourceReader(load_snapshot(saved, KEYS, snapshot.fingerprint)).take(np.array([1])).num_rows == 1
    saved.put(KEYS.splits(snapshot.fingerprint), _legacy_splits(2 - splits))
    with pytest.raises(ConfigError, match="split in another way before"):
        save_snapshot(saved, KEYS, snapshot, splits)
    saved.put(KEYS.splits(snapshot.fingerprint), b"nonsense")
    with pytest.raises(CorruptDataError, match=r"splits\.arrow' is damaged: .*; delete it"):
        save_snapshot(saved, KEYS, snapshot, splits)


def test_saving_again_writes_nothing_new(saved, snapshot, splits):
    before = {meta.key: meta.e_tag for meta in saved.list("")}
    save_snapshot(saved, KEYS, snapshot, splits)
    assert {meta.key: meta.e_tag for meta in saved.list("")} == before
    assert encode_splits(splits) == saved.get(KEYS.splits(snapshot.fingerprint))
