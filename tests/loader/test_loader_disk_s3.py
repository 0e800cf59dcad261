"""The disk tier before real S3 servers: a machine requests nothing twice, neither chunks nor the layout itself."""

from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
from disk_world import BATCH, load, read, start_rank
from faults import FaultProxy
from full_disk import files_up_to
from layouts import make_dataset, publish

from foreshard.storage import ObjectStore


@contextmanager
def watched(tmp_path, server):
    """Yield a dataset on S3 and a proxy before it, which knows what was requested."""
    url = f"s3://{server.create_bucket()}/p"
    dataset = make_dataset(tmp_path, 400, ObjectStore.open(url, endpoint=server.endpoint))
    publish(dataset, 0, seed=1)
    with FaultProxy(server.endpoint, 1, {}) as proxy:
        yield dataset, proxy


def gets(proxy, folder):
    """How often each object below a folder was requested."""
    keys = [line.split("?")[0].split()[1] for line in proxy.lines if line.startswith("GET ")]
    return Counter(key for key in keys if f"/{folder}/" in key)


def train_bytes(dataset):
    manifest = dataset.repository.open()
    return int(manifest.nbytes[manifest.splits == 0].sum())


def test_a_second_epoch_and_the_next_job_read_no_chunk_from_s3(tmp_path, s3_server):
    with watched(tmp_path, s3_server) as (dataset, proxy):
        store = ObjectStore.open(dataset.repository.store.url, endpoint=proxy.endpoint)
        whole, nbytes = dataset.train_ids, train_bytes(dataset)
        loader = load(store, whole, tmp_path)
        first = read(loader)
        requested = gets(proxy, "shards").total()
        assert requested > 0
        stats = loader.last_epoch.stats
        assert (stats.disk_written, stats.store_bytes) == (len(list((tmp_path / "cache" / "chunks").iterdir())), nbytes)
        assert (np.sort(first) == np.sort(loader.order.ids(1, 0, len(first)))).all()
        read(loader)
        assert gets(proxy, "shards").total() == requested
        stats = loader.last_epoch.stats
        assert stats.store_bytes == stats.disk_written == 0
        assert stats.disk_bytes == stats.origin_bytes > 0
        assert stats.disk_hits > 0
        loader.close()
        again = load(store, whole, tmp_path)
        assert (read(again) == first).all()
        assert gets(proxy, "shards").total() == requested, "another job finds them there"
        again.close()


@pytest.mark.s3
def test_the_report_tells_what_the_disk_tier_did_and_what_was_wrong_with_it(tmp_path, seaweedfs_location):
    dataset = make_dataset(tmp_path, 400, seaweedfs_location.open())
    publish(dataset, 0, seed=1)
    loader = load(dataset.repository.store, dataset.train_ids, tmp_path)
    read(loader, 2)
    table = loader.report().split("What the disk tier did, in chunks")[1].splitlines()
    rows = [line.split() for line in table if line.strip()[:1] in ("1", "2")]
    for row, stats in zip(rows, loader.monitor.snapshot().epochs, strict=True):
        moved = [f"{nbytes / 1e6:,.1f}" for nbytes in (stats.disk_bytes, stats.store_bytes)]
        assert row == [f"{stats.epoch}", *moved, f"{stats.disk_hits}", f"{stats.disk_written}", *["0"] * 4]
    assert rows[1][4] == "0", "all was there"
    assert "failed the last time" not in loader.report()
    for chunk in (tmp_path / "cache" / "chunks").iterdir():
        chunk.write_bytes(b"damaged")
    read(loader)
    stats = loader.last_epoch.stats
    assert stats.disk_damaged > 0
    assert stats.store_bytes == stats.origin_bytes - stats.disk_bytes > 0
    loader.close()


def test_a_full_disk_is_in_the_report_and_in_what_prometheus_reads(tmp_path):
    dataset = make_dataset(tmp_path, 400)
    publish(dataset, 0, seed=1)
    loader = load(dataset.repository.store, dataset.train_ids, tmp_path)
    with files_up_to(100):
        read(loader)
    assert loader.last_epoch.stats.disk_troubles > 0
    assert "The disk tier failed the last time as a chunk of" in loader.report()
    assert f"foreshard_loader_epoch_disk_troubles {loader.last_epoch.stats.disk_troubles}\n" in loader.prometheus()
    loader.close()


def test_four_ranks_of_a_machine_download_the_layout_and_each_chunk_once(tmp_path, s3_server):
    with watched(tmp_path, s3_server) as (dataset, proxy):
        ranks = [start_rank(dataset, tmp_path, rank, 4, endpoint=proxy.endpoint) for rank in range(4)]
        for rank in ranks:
            rank.join(100)
        assert [rank.exitcode for rank in ranks] == [0] * 4
        parts = {key.rsplit("/", 1)[1]: count for key, count in gets(proxy, "layouts").items() if ".arrow" in key}
        assert sorted(name.split("-")[0] for name in parts) == ["index", "manifest", "shards"]
        assert set(parts.values()) == {1}
        served = [line.split() for line in (tmp_path / "served").read_text().splitlines()]
        assert sum(int(end) - int(start) for _, start, end in served) == train_bytes(dataset)
    shares = [np.load(tmp_path / f"rank{number}.npy") for number in range(4)]
    assert len({len(share) for share in shares}) == 1
    steps = np.concatenate([share.reshape(-1, BATCH // 4) for share in shares], axis=1)
    epochs = np.split(steps, 2)
    assert all(len(np.unique(epoch)) == epoch.size for epoch in epochs), "no sample is read twice in an epoch"
