"""The source: its fingerprint tells its content and nothing else, and its rows are found by id."""

import json
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshard.errors import SourceError, UnreachableError
from foreshard.source import Snapshot, SourceReader, take_snapshot

PARTS = (137, 0, 64, 251)


def _frame(rows, start=0):
    import pandas as pd

    rng = np.random.default_rng(start)
    words = np.array(["ORD", "JFK", "SFO", None], object)
    return pd.DataFrame(
        {
            "id": np.arange(start, start + rows, dtype=np.int64),
            "delay": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(10, 30, rows)),
            "origin": words[rng.integers(0, 4, rows)],
            "late": rng.random(rows) < 0.3,
        }
    )


def _schema():
    return pa.schema(
        [
            ("id", pa.int64()),
            ("delay", pa.float64()),
            ("origin", pa.string()),
            ("late", pa.bool_()),
            ("when", pa.timestamp("us", tz="UTC")),
            ("fare", pa.decimal128(9, 2)),
            ("tags", pa.list_(pa.string())),
            ("carrier", pa.dictionary(pa.int32(), pa.string())),
        ]
    )


def _table(rows, start=0):
    table = pa.Table.from_pandas(_frame(rows, start), preserve_index=False)
    ids = range(start, start + rows)
    columns = {
        "when": pa.array([i * 60_000_000 for i in ids], pa.timestamp("us", tz="UTC")),
        "fare": pa.array([Decimal(i).scaleb(-2) for i in ids], pa.decimal128(9, 2)),
        "tags": pa.array([[f"t{i}"] * (i % 3) if i % 5 else None for i in ids], pa.list_(pa.string())),
        # Another dictionary in every file, so that codes mean different things.
        "carrier": pa.array([f"{start}-{i % 4}" for i in ids]).dictionary_encode(),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table.cast(_schema())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Several files of several row groups, one of them without a row."""
    folder = tmp_path_factory.mktemp("source")
    start = 0
    for number, rows in enumerate(PARTS):
        target = folder / "year=2013" / f"part-{number:02d}.parquet"
        target.parent.mkdir(exist_ok=True)
        pq.write_table(_table(rows, start), target, row_group_size=50)
        start += rows
    (folder / "README.txt").write_text("no part of the source")
    return folder


@pytest.fixture(scope="module")
def frame(folder):
    import pandas as pd

    return pd.concat([pq.read_table(path).to_pandas() for path in sorted(folder.rglob("*.parquet"))], ignore_index=True)


@pytest.fixture
def copy(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def _upload(folder, store):
    for path in folder.rglob("*"):
        if path.is_file():
            store.put(str(path.relative_to(folder)), path.read_bytes())


# -- snapshots -----------------------------------------------------------------------------------------
def test_a_snapshot_tells_files_rows_and_columns(folder):
    snapshot = take_snapshot(folder.as_uri(), required=["delay", "late"])
    assert [(file.key, file.rows) for file in snapshot.files] == [
        (f"year=2013/part-{number:02d}.parquet", rows) for number, rows in enumerate(PARTS)
    ]
    assert [file.size for file in snapshot.files] == [(folder / file.key).stat().st_size for file in snapshot.files]
    assert snapshot.rows == sum(PARTS)
    assert snapshot.schema.equals(_schema())
    assert len(snapshot.fingerprint) == 32


def test_the_fingerprint_tells_the_content_and_not_the_place(folder, any_location):
    _upload(folder, any_location.open())
    here = take_snapshot(folder.as_uri())
    there = take_snapshot(any_location.url, endpoint=any_location.endpoint)
    assert there.url != here.url
    assert there.fingerprint == here.fingerprint == take_snapshot(folder.as_uri()).fingerprint


def test_the_fingerprint_of_a_given_content_never_changes():
    schema = pa.schema([("a", pa.int64()), pa.field("b", pa.list_(pa.string()), nullable=False)])
    raw = {
        "url": "file:///x",
        "endpoint": None,
        "files": [{"key": "a.parquet", "size": 10, "e_tag": "00ff", "rows": 3}],
        "schema_hex": schema.serialize().to_pybytes().hex(),
    }
    assert Snapshot.from_json(json.dumps(raw)).fingerprint == "126fa9166208a76fd6b434757483f317"


@pytest.mark.parametrize("change", ["value", "name", "append", "remove", "column"])
def test_any_change_of_the_content_changes_the_fingerprint(copy, change):
    before = take_snapshot(copy.as_uri()).fingerprint
    first = copy / "year=2013" / "part-00.parquet"
    match change:
        case "value":
            table = pq.read_table(first)
            flipped = table.set_column(3, "late", pa.array([not v for v in table["late"].to_pylist()]))
            pq.write_table(flipped, first, row_group_size=50)
        case "name":
            first.rename(first.with_name("part-000.parquet"))
        case "append":
            pq.write_table(_table(3, 1000), copy / "year=2013" / "part-99.parquet")
        case "remove":
            first.unlink()
        case "column":
            for path in copy.rglob("*.parquet"):
                table = pq.read_table(path)
                pq.write_table(table.append_column("more", table["id"]), path)
    assert take_snapshot(copy.as_uri()).fingerprint != before


def test_a_snapshot_survives_json(folder):
    snapshot = take_snapshot(folder.as_uri())
    found = Snapshot.from_json(snapshot.to_json())
    assert found == snapshot
    assert found.fingerprint == snapshot.fingerprint
    raw = json.loads(snapshot.to_json())
    assert (raw["fingerprint"], raw["rows"]) == (snapshot.fingerprint, snapshot.rows)


def test_appended_files_leave_the_ids_of_the_others_alone(copy, frame):
    pq.write_table(_table(9, sum(PARTS)), copy / "year=2013" / "part-99.parquet")
    reader = SourceReader(take_snapshot(copy.as_uri()), ["id"])
    assert reader.take(np.arange(sum(PARTS) + 9))["id"].to_pylist() == [
        *frame["id"],
        *range(sum(PARTS), sum(PARTS) + 9),
    ]


# -- rows ----------------------------------------------------------------------------------------------
def _assert_rows(found, frame, ids):
    expected = pa.Table.from_pandas(frame.iloc[ids], schema=found.schema, preserve_index=False)
    assert found.to_pylist() == expected.to_pylist()


def test_rows_by_id_are_those_of_pandas_on_every_store(folder, frame, any_location):
    _upload(folder, any_location.open())
    reader = SourceReader(take_snapshot(any_location.url, endpoint=any_location.endpoint))
    ids = np.random.default_rng(0).permutation(sum(PARTS))[:200]
    _assert_rows(reader.take(ids), frame, ids)


@pytest.fixture(scope="module")
def reader(folder):
    return SourceReader(take_snapshot(folder.as_uri()))


@given(ids=st.lists(st.integers(0, sum(PARTS) - 1), max_size=60))
def test_any_ids_in_any_order_and_number_give_their_rows(reader, frame, ids):
    found = reader.take(np.array(ids, np.int64))
    assert found.schema.equals(reader.snapshot.schema)
    _assert_rows(found, frame, ids)


def test_a_scan_gives_every_row_once_in_order_of_ids(reader, frame):
    parts = list(reader.scan())
    sizes = [table.num_rows for _, table in parts]
    assert [start for start, _ in parts] == np.cumsum([0, *sizes[:-1]]).tolist()
    assert max(sizes) == 50
    assert all(table.schema.equals(reader.snapshot.schema) for _, table in parts)
    _assert_rows(pa.concat_tables([table for _, table in parts]).unify_dictionaries(), frame, np.arange(sum(PARTS)))


def test_only_the_columns_asked_for_are_read_in_their_order(folder, frame):
    reader = SourceReader(take_snapshot(folder.as_uri()), ["late", "id"])
    found = reader.take(np.array([5, 300]))
    assert found.column_names == ["late", "id"]
    _assert_rows(found, frame[["late", "id"]], [5, 300])
    assert reader.take(np.array([], np.int64)).column_names == ["late", "id"]


@pytest.mark.parametrize("ids", [[-1], [0, sum(PARTS)], [10**12]])
def test_ids_outside_the_source_are_refused_with_its_bounds(reader, ids):
    with pytest.raises(SourceError, match=rf"are not within 0\.\.{sum(PARTS) - 1}"):
        reader.take(np.array(ids))


# -- what may be wrong ---------------------------------------------------------------------------------
def test_a_missing_folder_is_an_error_and_is_not_made(tmp_path):
    with pytest.raises(UnreachableError, match="there is no folder"):
        take_snapshot((tmp_path / "gone").as_uri())
    assert not (tmp_path / "gone").exists()


def test_a_source_without_parquet_files_is_refused(tmp_path):
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        SourceError, match=r"holds no \.parquet file; point dataset\.source at a folder of Parquet files"
    ):
        take_snapshot(tmp_path.as_uri())


def test_a_source_without_a_row_is_refused(tmp_path):
    for name in ("a", "b"):
        pq.write_table(_table(0), tmp_path / f"{name}.parquet")
    with pytest.raises(SourceError, match="has 2 files but no row; there is nothing to train on"):
        take_snapshot(tmp_path.as_uri())


def test_a_missing_column_is_refused_with_those_there_are(folder):
    words = "has no column 'arr_delay'; it has id, delay, origin, late"
    with pytest.raises(SourceError, match=words):
        take_snapshot(folder.as_uri(), required=["delay", "arr_delay"])
    with pytest.raises(SourceError, match=words):
        SourceReader(take_snapshot(folder.as_uri()), ["arr_delay"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop_columns(["late"]), "it lacks 'late'"),
        (lambda t: t.append_column("more", t["id"]), "it has 'more' beside"),
        (lambda t: t.set_column(0, "id", t["id"].cast(pa.int32())), "'id' is int32, not int64"),
        (lambda t: t.select(t.column_names[::-1]), "their order is carrier, tags, .*"),
    ],
    ids=["lacks", "has more", "type", "order"],
)
def test_files_of_different_columns_are_refused_naming_file_and_column(copy, change, words):
    odd = copy / "year=2013" / "part-02.parquet"
    pq.write_table(change(pq.read_table(odd)), odd)
    with pytest.raises(SourceError, match=rf"part-02\.parquet' .*part-00\.parquet': {words}; give all files"):
        take_snapshot(copy.as_uri())


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a table" * 100, "cut"], ids=["empty", "magic", "text", "cut"])
def test_a_file_that_is_not_parquet_is_named(copy, content):
    bad = copy / "year=2013" / "part-02.parquet"
    bad.write_bytes(bad.read_bytes()[:-50] if content == "cut" else content)
    with pytest.raises(SourceError, match=r"'year=2013/part-02\.parquet' in .* is not readable as Parquet"):
        take_snapshot(copy.as_uri())


def test_a_file_that_changed_since_the_snapshot_is_refused(copy):
    snapshot = take_snapshot(copy.as_uri())
    target = copy / "year=2013" / "part-02.parquet"
    raw = target.read_bytes()
    words = rf"'year=2013/part-02\.parquet' in .* had {len(raw)} bytes in snapshot {snapshot.fingerprint} and "

    target.write_bytes(raw + b"x")
    with pytest.raises(SourceError, match=f"{words}has {len(raw) + 1} bytes now; sources are immutable"):
        SourceReader(snapshot)

    target.write_bytes(raw[:-60] + bytes([raw[-60] ^ 1]) + raw[-59:])
    with pytest.raises(SourceError, match=f"{words}has other content now; sources are immutable"):
        SourceReader(snapshot)

    target.unlink()
    with pytest.raises(SourceError, match=f"{words}is gone; sources are immutable"):
        SourceReader(snapshot)

    target.write_bytes(raw)  # the same content, at another time: nothing is wrong
    assert SourceReader(snapshot).take(np.array([140]))["id"].to_pylist() == [140]


def test_the_library_imports_without_heavy_packages():
    code = (
        "import foreshard.source, foreshard.config, foreshard.storage, sys; "
        "heavy = {'pandas', 's3fs', 'botocore', 'torch', 'dagster', 'prophet', 'sklearn', 'ray'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
