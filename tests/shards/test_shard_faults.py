"""Materialise and read through a bad network: correct bytes or a clear error in time; never a wrong byte."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import FAULTS, FaultProxy
from shardkit import build_plan, sample_table, splits_of, successor

from foreshard.errors import CorruptDataError, ForeshardError, SourceError, StorageError
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions
from foreshard.loader.order import SequentialOrder
from foreshard.seeding import derive_seed, row_keys
from foreshard.shards.materialize import Execution
from foreshard.shards.repository import Repository
from foreshard.source import SourceReader, take_snapshot
from foreshard.storage import ObjectStore, Timeouts

ROWS = 3000
RATE = 0.05
DEADLINE_S = 60
ATTEMPTS = 8


@pytest.fixture
def proxy(s3_server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    # Silent requests are given up after a second or two, everywhere.
    monkeypatch.setattr(Timeouts.__init__, "__defaults__", (2.0, 1.0, 2.0, 15.0, 6.0, 4))
    with FaultProxy(s3_server.endpoint, 7, {}, stall=3.0) as made:
        yield made


def insist(work: Callable[[], object], failures: list[str]) -> object:
    """Repeat what fails with a clear error, as a user would; each attempt ends within the deadline."""
    for _ in range(ATTEMPTS):
        start = time.monotonic()
        try:
            return work()
        except (StorageError, CorruptDataError, SourceError) as error:
            failures.append(str(error))
        finally:
            assert time.monotonic() - start < DEADLINE_S
    raise AssertionError(f"{ATTEMPTS} attempts failed: {failures}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_materialise_and_read_through_faults_of_every_kind(s3_server, proxy):
    table, bucket = sample_table(ROWS), s3_server.create_bucket()
    direct = ObjectStore.open(f"s3://{bucket}", endpoint=s3_server.endpoint)
    for number in range(3):
        sink = pa.BufferOutputStream()
        part = table.slice(number * ROWS // 3, ROWS // 3)
        pq.write_table(part, sink, row_group_size=200, compression="none", write_page_checksum=False)
        direct.put(f"source/part-{number}.parquet", sink.getvalue().to_pybytes())
    store = ObjectStore.open(f"s3://{bucket}/store", endpoint=proxy.endpoint)
    repository, failures = Repository(store, "data"), []
    proxy.rates = dict.fromkeys(FAULTS, RATE)

    snapshot = insist(lambda: take_snapshot(f"s3://{bucket}/source", endpoint=proxy.endpoint), failures)
    assert snapshot.fingerprint == take_snapshot(f"s3://{bucket}/source", endpoint=s3_server.endpoint).fingerprint
    insist(lambda: repository.save_snapshot(snapshot, splits_of(snapshot)), failures)
    first = build_plan(snapshot, chunk_rows=20, shard_chunks=6)
    plans = [first, successor(first, "demo.e000004", share=0.3)]
    for plan in plans:

        def make(plan=plan):
            small = Execution(group_bytes=20_000)
            made = repository.materialize(
                plan, SourceReader(repository.load_snapshot(snapshot.fingerprint)), execution=small
            )
            return repository.publish(repository.commit(made.manifest))

        insist(make, failures)

    expected = [table.take(np.sort(plan.sample_ids[plan.offsets[c] : plan.offsets[c + 1]])) for c in range(30)]
    for _ in range(8):
        with suppress(StorageError, CorruptDataError):
            manifest = repository.open()
            assert manifest.ref == plans[-1].ref
            for chunk, batch in enumerate(repository.read_chunks(manifest, range(30))):
                rows = pa.Table.from_batches([batch]).sort_by("sample_id").drop_columns("sample_id")
                assert rows.equals(expected[chunk]), "a wrong byte was returned"
    assert {kind for kind, count in proxy.counts.items() if count} == set(FAULTS)

    sound = Repository(ObjectStore.open(f"s3://{bucket}/store", endpoint=s3_server.endpoint), "data")
    assert sound.open().ref == plans[-1].ref
    for plan in plans:
        report = sound.verify(plan.ref)
        assert report.ok, report.problems
    assert len(failures) <= ATTEMPTS, failures


@pytest.mark.slow
def test_a_loader_sees_the_same_rows_through_flipped_truncated_and_reset_reads(s3_server, proxy):
    table, bucket = sample_table(ROWS), s3_server.create_bucket()
    direct = ObjectStore.open(f"s3://{bucket}", endpoint=s3_server.endpoint)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    direct.put("source/part.parquet", sink.getvalue().to_pybytes())
    snapshot = take_snapshot(f"s3://{bucket}/source", endpoint=s3_server.endpoint)
    calm = Repository(ObjectStore.open(f"s3://{bucket}/store", endpoint=s3_server.endpoint), "data")
    calm.save_snapshot(snapshot, splits_of(snapshot))
    calm.publish(calm.commit(calm.materialize(build_plan(snapshot), SourceReader(snapshot)).manifest))
    train = np.flatnonzero(splits_of(snapshot) == 0)
    order = train[np.argsort(row_keys(derive_seed(root=1), train))]
    repository = Repository(ObjectStore.open(f"s3://{bucket}/store", endpoint=proxy.endpoint), "data")
    loader = Loader(repository, SequentialOrder(order), LoaderOptions(global_batch=64, memory=200_000))
    proxy.rates = {"flip_response": RATE, "truncate": RATE, "reset": RATE}
    seen = []
    while loader.last_epoch is None:
        with suppress(ForeshardError):
            for batch in loader:
                ids = batch.sample_ids
                assert pa.array(batch["name"]).to_pylist() == table["name"].take(ids).to_pylist()
                seen += ids.tolist()
    loader.close()
    assert seen == order.tolist()[: len(seen)]
    assert len(seen) >= len(order) - 64
    assert proxy.counts["flip_response"]
