"""A loader's lease: gc spares the layout that a job reads for as long as the job lives, and no longer."""

import os

import pytest
from layouts import make_dataset, publish
from obstore.store import LocalStore
from serving import threads

from foreshard.errors import AccessDeniedError, ConfigError, ObjectNotFoundError
from foreshard.keys import DatasetKeys
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions, Logging
from foreshard.loader.order import UniformOrder
from foreshard.retention import RetentionConfig
from foreshard.shards.lease_record import find_leases
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore

KEYS = DatasetKeys("demo")
NOTHING = RetentionConfig(keep_generations=1, keep_hours=0, orphan_hours=0)


@pytest.fixture
def dataset(tmp_path):
    data = make_dataset(tmp_path, 200)
    publish(data, 0, seed=1)
    return data


def load(dataset, **settings) -> Loader:
    order = UniformOrder(dataset.train_ids, 1)
    return Loader(dataset.repository, order, LoaderOptions(**{"global_batch": 8, "memory": 6000, **settings}))


def leased(dataset) -> list[str]:
    return [str(found.lease.layout) for found in find_leases(dataset.repository.store, KEYS)]


def test_a_loader_holds_the_layout_that_it_reads_until_it_is_closed(dataset):
    loader = load(dataset, logging=Logging("job", "w1"))
    [found] = find_leases(dataset.repository.store, KEYS)
    assert (found.lease.layout, found.lease.owner.run, found.lease.ttl) == (loader.layout, "job", 600)
    assert threads() == [], "no thread before the first batch"
    batches = iter(loader)
    next(batches)
    assert "foreshard-lease" in threads()
    batches.close()
    loader.close()
    assert leased(dataset) == []
    assert threads() == []
    assert len(list(loader)) > 0, "a closed loader may be used again"
    assert leased(dataset) == [str(loader.layout)], "and holds its layout again"
    loader.close()
    assert leased(dataset) == []


def test_a_layout_that_is_being_read_survives_gc_and_goes_once_the_loader_moved_on(dataset):
    loader = load(dataset)
    first, batches = loader.layout, iter(loader)
    seen = [next(batches).sample_ids]
    for epoch in (4, 8):
        publish(dataset, epoch, seed=epoch)
    report = dataset.repository.run_gc(NOTHING)
    assert report.complete
    assert report.kept[first][0].startswith(f"reader lease of process {os.getpid()}")
    seen += [batch.sample_ids for batch in batches]
    assert len(seen) == len(dataset.train_ids) // 8
    assert loader.refresh()
    assert leased(dataset) == [str(loader.layout)]
    assert dataset.repository.run_gc(NOTHING).doomed == (first,)
    assert len(list(loader)) == len(seen)
    loader.close()


def test_a_refresh_that_changes_nothing_or_fails_keeps_the_lease(dataset):
    loader = load(dataset)
    [before] = find_leases(dataset.repository.store, KEYS)
    assert not loader.refresh()
    with pytest.raises(ObjectNotFoundError):
        loader.refresh(type(loader.layout)("demo.e000099", "0" * 32))
    [after] = find_leases(dataset.repository.store, KEYS)
    assert after.key == before.key
    loader.close()


def test_a_job_that_slept_beyond_its_lease_reads_on_if_the_layout_is_there_and_else_says_why(dataset):
    loader = load(dataset)
    [found] = find_leases(dataset.repository.store, KEYS)
    dataset.repository.store.delete([found.key])  # as gc does with what ran out
    assert len(list(loader)) > 0
    assert leased(dataset) == [str(loader.layout)]
    loader.close()
    publish(dataset, 4, seed=2)
    dataset.repository.run_gc(NOTHING)
    with pytest.raises(ObjectNotFoundError, match=f"{loader.layout} is not committed .* or gc has removed it"):
        next(iter(loader))
    assert loader.refresh()
    assert len(list(loader)) > 0
    loader.close()


class ReadOnly(ObjectStore):
    """A real store to which these credentials may not write."""

    def create(self, key, _data):
        raise AccessDeniedError(f"access to {key!r} in {self.url} was denied")

    put = create


def read_only(tmp_path) -> Repository:
    folder = tmp_path / "store"
    return Repository(ReadOnly(folder.as_uri(), LocalStore(folder)), "demo")


def test_a_job_that_may_only_read_is_told_how_to_go_without_a_lease(dataset, tmp_path):
    repository = read_only(tmp_path)
    order = UniformOrder(dataset.train_ids, 1)
    with pytest.raises(AccessDeniedError, match=r"lease .* denied; .* set lease_ttl=0"):
        Loader(repository, order, LoaderOptions(8, memory=6000))
    loader = Loader(repository, order, LoaderOptions(8, memory=6000, lease_ttl=0))
    assert len(list(loader)) > 0
    assert leased(dataset) == []
    loader.close()


@pytest.mark.parametrize("ttl", [-1.0, 0.5, float("nan"), float("inf")])
def test_a_lease_that_cannot_be_kept_is_refused(ttl):
    with pytest.raises(ConfigError, match="lease_ttl"):
        LoaderOptions(8, lease_ttl=ttl)
