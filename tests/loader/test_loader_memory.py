"""A loader's memory is bounded by its budget, whatever the size of the data and the number of epochs; nothing leaks."""

import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import make_dataset, publish
from memory_child import descriptors, tasks, tasks_at_rest

from benchmarks.workloads import lay_out, workload_of
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import UniformOrder
from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore

ROWS, SAMPLE_BYTES = 80_000, 25_000  # 2 GB
MEMORY = 64 << 20
BESIDE = 150 << 20
"""What a whole process may take beside its chunks: the interpreter, numpy and Arrow with their code, and batches."""
EPOCHS = 10

CHILD = Path(__file__).with_name("memory_child.py")


def write_source(folder):
    """Write rows of one repeated byte each, which compress to nothing in Parquet: a layout holds them uncompressed."""
    folder.mkdir()
    schema = pa.schema([pa.field("payload", pa.binary()), pa.field("label", pa.int64())])
    with pq.ParquetWriter(
        folder / "a.parquet", schema, compression="zstd", use_dictionary=False, write_statistics=False
    ) as writer:
        for first in range(0, ROWS, 1000):
            ids = np.arange(first, first + 1000)
            raw = pa.py_buffer(np.repeat((ids % 251).astype(np.uint8), SAMPLE_BYTES))
            offsets = pa.py_buffer(np.arange(0, 1001 * SAMPLE_BYTES, SAMPLE_BYTES, dtype=np.int32))
            payload = pa.Array.from_buffers(pa.binary(), 1000, [None, offsets, raw])
            writer.write_batch(pa.record_batch([payload, pa.array(ids)], schema=schema))


@pytest.fixture
def two_gigabytes(tmp_path):
    """A folder store with a published layout in chunks of 1 MB, gone with the test."""
    write_source(tmp_path / "source")
    work = workload_of("samples", tmp_path / "source", chunk_rows=40, shard_rows=2_500)
    store = ObjectStore.open((tmp_path / "store").as_uri())
    work.order.sort()
    Repository(store, "data").publish(lay_out(work, store).ref)
    yield tmp_path / "store"
    shutil.rmtree(tmp_path / "store")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_epochs_of_two_gigabytes_stay_within_64_mib_and_150_mib_for_the_whole_process(two_gigabytes, tmp_path):
    (tmp_path / "temporary").mkdir()
    done = subprocess.run(
        [sys.executable, CHILD, two_gigabytes, str(MEMORY), str(EPOCHS)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path / "temporary")},
        capture_output=True,
        check=False,
        timeout=480,
    )
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert report["read"] >= EPOCHS * ROWS * SAMPLE_BYTES
    assert max(report["budgets"]) <= MEMORY
    figures = {name: report[name] for name in ("imported", "peak")} | {"after": [e["rss"] for e in report["epochs"]]}
    assert report["peak"] << 10 <= MEMORY + BESIDE, figures

    before, epochs, closed = report["before"], report["epochs"], report["closed"]
    assert closed["threads"] == before["threads"] == []
    # Those that fetch, one that assembles batches and one that renews the lease.
    assert all(len(epoch["threads"]) <= report["concurrency"] + 2 for epoch in epochs)
    for name in ("descriptors", "files", "objects"):
        assert all(epoch[name] == epochs[1][name] for epoch in epochs[1:]), f"{name} from the second epoch on"
        assert closed[name] == before[name], name
    assert before["files"] == []
    assert report["tasks_closed"] <= report["tasks_before"]


def test_loaders_that_come_and_go_leave_no_thread_descriptor_or_object(tmp_path):
    dataset = make_dataset(tmp_path, 200)
    publish(dataset, 0, seed=1)
    store = dataset.repository.store
    held, threads = [], 0
    for round_ in range(6):
        for stop in (0, 1, 100):  # closed after so many batches
            loader = Loader(dataset.repository, UniformOrder(dataset.train_ids, 1), LoaderOptions(16, memory=6000))
            for _batch, _ in zip(loader, range(stop), strict=False):
                pass
            loader.close()
        del loader
        gc.collect()
        held.append((descriptors(), [meta.key for meta in store.list("")]))
        threads = threads or tasks()
        assert tasks_at_rest(threads) <= threads, f"round {round_}"
        assert held[-1] == held[0], f"round {round_}"
