"""What is read from the source is what the snapshot saw, in bounded memory, or a clear error."""

import itertools
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sourcekit import FaultyStore, damage, random_table, upload, write

from foreshard.errors import ConfigError, SourceError
from foreshard.source import Snapshot, SourceReader, fetching, parquet, take_snapshot, taking
from foreshard.source.checksums import BLOCK_BYTES, block_count

NO_FAULT = itertools.repeat(None)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    """Faults here do not pass with time."""
    monkeypatch.setattr(fetching, "_FIRST_PAUSE", 0.0)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two files of several blocks and row groups."""
    tables = [random_table(4000, seed=1), random_table(2500, seed=2)]
    return write(tmp_path_factory.mktemp("large"), *tables, row_group=900)


def _table(folder):
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))


def _scan(reader, **options):
    return pa.concat_tables(table for _, table in reader.scan(**options))


def _faults(seed, share, kinds=("flip", "cut")):
    rng = np.random.default_rng(seed)
    while True:
        yield kinds[rng.integers(len(kinds))] if rng.random() < share else None


# -- wrong bytes ---------------------------------------------------------------------------------------
def test_a_flipped_bit_anywhere_in_a_file_is_never_returned(tmp_path):
    folder = write(tmp_path / "source", random_table(3400), row_group=1500)
    path = folder / "part-00.parquet"
    snapshot = take_snapshot(folder.as_uri())
    size = path.stat().st_size
    blocks = block_count(size)
    assert blocks == 4
    assert size % BLOCK_BYTES
    for block in range(blocks):
        start, end = block * BLOCK_BYTES, min((block + 1) * BLOCK_BYTES, size)
        for position in (start, (start + end) // 2, end - 1):
            damage(path, position, bit=position % 8)
            words = (
                rf"bytes \[{start}, {end}\) of source file 'part-00\.parquet' .*{snapshot.fingerprint}.*put the file"
            )
            with pytest.raises(SourceError, match=words):
                _scan(SourceReader(snapshot))
            damage(path, position, bit=position % 8)
    assert _scan(SourceReader(snapshot)).equals(_table(folder))


def test_faulty_answers_are_asked_for_again_until_they_are_right(large, any_location):
    upload(large, any_location.open())
    snapshot = take_snapshot(any_location.url, endpoint=any_location.endpoint)
    reader = SourceReader(snapshot)
    for seed in range(3):
        reader._store = FaultyStore(reader._store, _faults(seed, 0.3))
        assert _scan(reader).equals(_table(large))
    ids = np.random.default_rng(0).permutation(6500)[:40]
    assert reader.take(ids).equals(_table(large).take(ids))


def test_answers_that_stay_wrong_are_an_error(large):
    reader = SourceReader(take_snapshot(large.as_uri()))
    real = reader._store
    reader._store = FaultyStore(real, itertools.repeat("flip"))
    with pytest.raises(SourceError, match=r"did not match their checksum in snapshot .* at 5 attempts"):
        _scan(reader)
    reader._store = FaultyStore(real, itertools.repeat("cut"))
    with pytest.raises(SourceError, match=r"could not be read in 5 attempts \('part-0.\.parquet' gave \d+ bytes"):
        _scan(reader)


def test_a_file_cut_or_gone_while_it_is_read_is_an_error(tmp_path):
    folder = write(tmp_path / "source", random_table(3000))
    path = folder / "part-00.parquet"
    reader = SourceReader(take_snapshot(folder.as_uri()))
    raw = path.read_bytes()
    path.write_bytes(raw[: BLOCK_BYTES + 5])
    with pytest.raises(SourceError, match=r"could not be read in 5 attempts .* has 1048581 bytes"):
        _scan(reader)
    path.unlink()
    with pytest.raises(SourceError, match=r"part-00\.parquet' .* is gone; put it back"):
        _scan(reader)


@pytest.mark.parametrize("tag", ["md5", "other"])
def test_a_snapshot_over_a_faulty_link_records_the_true_content(large, seaweedfs_location, monkeypatch, tag):
    store = seaweedfs_location.open()
    upload(large, store)
    truth = take_snapshot(large.as_uri())
    faulty = FaultyStore(store, _faults(5, 0.3))
    if tag == "other":  # as S3 gives for uploads in parts
        monkeypatch.setattr(taking, "digest_content", _without_md5(taking.digest_content))
    monkeypatch.setattr(taking.ObjectStore, "open", lambda *_, **__: faulty)
    found = take_snapshot(seaweedfs_location.url, endpoint=seaweedfs_location.endpoint)
    assert found.fingerprint == truth.fingerprint
    assert found.checksums().sums.tolist() == truth.checksums().sums.tolist()
    assert len(faulty.reads) > len(truth.files)


def _without_md5(digest):
    from dataclasses import replace

    return lambda store, meta: digest(store, replace(meta, e_tag=f"{meta.e_tag}-2"))


def test_a_snapshot_without_checksums_is_not_read_from(large):
    snapshot = take_snapshot(large.as_uri())
    bare = Snapshot.from_json(snapshot.to_json())
    assert bare == snapshot
    with pytest.raises(
        SourceError, match=rf"{snapshot.fingerprint} .* has no block checksums.*take the snapshot again"
    ):
        SourceReader(bare)


# -- what is read --------------------------------------------------------------------------------------
def test_a_scan_reads_every_block_once_but_for_edges_and_footers(large, any_location):
    upload(large, any_location.open())
    reader = SourceReader(take_snapshot(any_location.url, endpoint=any_location.endpoint))
    reader._store = store = FaultyStore(reader._store, NO_FAULT)
    _scan(reader)
    for file in reader.snapshot.files:
        blocks = Counter(
            block
            for key, start, end in store.reads
            if key == file.key
            for block in range(start // BLOCK_BYTES, block_count(end))
        )
        assert set(blocks) == set(range(block_count(file.size)))
        assert sum(blocks.values()) <= len(blocks) + 2


def test_only_row_groups_and_columns_that_are_wanted_are_read(tmp_path):
    folder = write(tmp_path / "source", random_table(20_000), row_group=4000)
    reader = SourceReader(take_snapshot(folder.as_uri()))
    reader._store = store = FaultyStore(reader._store, NO_FAULT)

    def read(**options):
        store.reads.clear()
        tables = list(reader.scan(**options))
        return tables, sum(end - start for _, start, end in store.reads)

    size = reader.snapshot.files[0].size
    tables, read_bytes = read(wanted=np.array([9000]))
    assert all(start >= 8000 and start + table.num_rows <= 12_000 for start, table in tables)
    assert sum(table["id"].to_pylist().count(9000) for _, table in tables) == 1
    assert read_bytes < size * 0.45
    tables, read_bytes = read(columns=["id"])
    assert pa.concat_tables(t for _, t in tables)["id"].to_pylist() == list(range(20_000))
    assert tables[0][1].column_names == ["id"]
    assert read_bytes < size * 0.45
    tables, read_bytes = read(wanted=np.array([], np.int64))
    assert (tables, read_bytes) == ([], 0)


def test_wanted_ids_must_be_ascending_and_tables_not_empty(large):
    reader = SourceReader(take_snapshot(large.as_uri()))
    with pytest.raises(ConfigError, match="are not ascending; sort them"):
        reader.scan(wanted=np.array([2, 1]))
    with pytest.raises(SourceError, match=r"sample ids 3\.\.6500 are not within 0\.\.6499"):
        reader.scan(wanted=np.array([3, 6500]))
    with pytest.raises(ConfigError, match="batch_bytes is 0"):
        reader.scan(batch_bytes=0)
    with pytest.raises(SourceError, match="has no column 'x'"):
        reader.scan(columns=["x"])


# -- memory --------------------------------------------------------------------------------------------
_MEASURE = """
import resource, sys
import pyarrow as pa
from foreshard.source import SourceReader, take_snapshot
reader = SourceReader(take_snapshot(sys.argv[1]))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
sizes = [table.nbytes for _, table in reader.scan(batch_bytes=4 << 20)]
print(peak() - before, max(sizes), sum(sizes))
"""


@pytest.mark.parametrize("columns", [1, 12])
def test_memory_does_not_grow_with_the_row_group(tmp_path, columns):
    rows = 240_000 // columns
    tables = [random_table(rows, 1000, seed).column("data") for seed in range(columns)]
    folder = write(tmp_path / "source", pa.table({f"c{i}": c for i, c in enumerate(tables)}))
    code = [sys.executable, "-c", _MEASURE, folder.as_uri()]
    out = subprocess.run(code, capture_output=True, text=True, check=True, timeout=120).stdout.split()
    rise_kib, largest, total = map(int, out)
    assert total > 200 << 20
    assert largest < 6 << 20
    assert rise_kib < 130 << 10


def test_values_that_a_dictionary_hides_are_bounded_too(tmp_path):
    """Long values that are stored once and repeated: the footer says next to nothing of their size."""
    words = pa.array([f"{i}" * 5000 for i in range(10)])
    table = pa.table({"x": words.take(pa.array(np.arange(30_000) % 10))})
    folder = write(tmp_path / "source", table)
    reader = SourceReader(take_snapshot(folder.as_uri()))
    assert reader.snapshot.files[0].size < 1 << 20
    sizes = [t.nbytes for _, t in reader.scan(batch_bytes=8 << 20)]
    assert max(sizes) < 10 << 20
    assert sum(sizes) > 100 << 20


# -- rows ----------------------------------------------------------------------------------------------
def _nested(rows, seed):
    rng = np.random.default_rng(seed)
    words = pa.array([f"{seed}-{i}" for i in range(7)])
    codes = pa.array(rng.integers(0, 7, rows), pa.int32(), mask=rng.random(rows) < 0.2)
    coded = pa.DictionaryArray.from_arrays(codes, words)
    lengths = rng.integers(0, 4, rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    inner = pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, 7, lengths.sum()), pa.int32()), words)
    return pa.table(
        {
            "n": pa.array(rng.integers(0, 10**6, rows), mask=rng.random(rows) < 0.2),
            "code": coded,
            "codes": pa.ListArray.from_arrays(offsets, inner),
            "deep": pa.StructArray.from_arrays([coded, pa.array(rng.random(rows))], ["word", "weight"]),
            "text": pa.array([None if i % 5 == 2 else "ß" * (i % 9) for i in range(rows)], pa.large_string()),
        }
    )


@settings(max_examples=40)
@given(
    rows=st.lists(st.integers(0, 70), min_size=1, max_size=3).filter(any),
    group=st.integers(1, 80),
    batch_bytes=st.sampled_from([1, 200, 3000, 1 << 20]),
    seed=st.integers(0, 999),
    load=st.sampled_from([0, 3000, 1 << 20]),
    picks=st.lists(st.integers(0, 10**6), max_size=30),
)
def test_scan_and_take_give_what_pyarrow_reads(tmp_path_factory, rows, group, batch_bytes, seed, load, picks):
    tables = [_nested(count, seed + number) for number, count in enumerate(rows)]
    folder = write(tmp_path_factory.mktemp("any"), *tables, row_group=group)
    reader = SourceReader(take_snapshot(folder.as_uri()))
    expected = pa.concat_tables(tables)
    ids = np.array([pick % expected.num_rows for pick in picks], np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "LOAD_BYTES", load)  # 0: every row group is streamed
        parts = list(reader.scan(batch_bytes=batch_bytes))
        taken = reader.take(ids)
    assert [start for start, _ in parts] == np.cumsum([0, *(t.num_rows for _, t in parts)])[:-1].tolist()
    found = pa.concat_tables(t for _, t in parts)
    assert found.schema.equals(expected.schema)
    assert found.to_pylist() == expected.to_pylist()
    assert taken.schema.equals(expected.schema)
    assert taken.to_pylist() == [expected.slice(i, 1).to_pylist()[0] for i in ids]
    assert max(t.num_rows for _, t in parts) <= group
