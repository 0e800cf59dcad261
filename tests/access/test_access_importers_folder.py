"""A folder's files: all that are the log are read, in order; all others are named."""

import bz2
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from import_world import asked, load, reasons

from foreshard.access.importers import import_trace
from foreshard.access.importers.folder import UNREAD, natural
from foreshard.errors import ConfigError, LogError


def fill(folder, names):
    """Write a log of one request, for the object that is the file's name, under each name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("parquet"):
            pq.write_table(pa.table({"key": [name]}), path)
        else:
            path.write_text(f"key\n{name}\n")
    return folder


def unread(got):
    assert reasons(got.report) == {}
    return got.report.count(UNREAD)


def test_files_are_read_in_natural_order_with_those_of_folders_within(tmp_path):
    names = ["date=1/a/x.parquet", "date=2/part-1.parquet", "date=10/part-9.parquet", "date=10/part-10.parquet"]
    got = import_trace(fill(tmp_path, names))
    assert asked(got) == names
    assert list(got.report.files) == asked(got)
    assert got.report.findings == ()


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 200)), unique=True))
def test_numbers_in_names_count_by_their_value(parts):
    names = [f"{letter}-{number}.csv" for letter, number in parts]
    assert sorted(names, key=natural) == [f"{letter}-{number}.csv" for letter, number in sorted(parts)]


def test_a_file_to_be_read_by_people_is_no_log(tmp_path):
    fill(tmp_path, ["README.txt", "data.parquet"])
    got = import_trace(tmp_path)
    assert (asked(got), unread(got)) == (["data.parquet"], 1)
    assert got.report.findings[0].examples[0].file == "README.txt"
    fill(tmp_path / "b", ["a.csv", "notes.txt", "LICENSE.csv", ".a.csv", "_log/b.csv", "x.bin"])
    got = import_trace(tmp_path / "b")
    assert (asked(got), unread(got)) == (["a.csv"], 5)
    got = import_trace(fill(tmp_path / "c", ["a.txt", "b.txt", "readme.txt"]))
    assert (asked(got), unread(got)) == (["a.txt", "b.txt"], 1)


def test_files_of_several_formats_are_refused_until_one_is_named(tmp_path):
    fill(tmp_path, ["a.csv", "b.parquet", "c.tsv"])
    with pytest.raises(ConfigError, match=r"several formats: csv \(c\.tsv\), parquet \(b\.parquet\); give format"):
        import_trace(tmp_path)
    got = import_trace(tmp_path, format="csv")
    assert (asked(got), unread(got)) == (["a.csv", "c.tsv"], 1)


def test_a_folder_without_a_log_says_what_it_holds(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be told by its name; give format"):
        import_trace(tmp_path)
    fill(tmp_path, ["a.csv.bz2", "b.md"])
    with pytest.raises(
        ConfigError, match=r"by its name nor by .*: a\.csv\.bz2, b\.md \(only gzip and zstd are read\); give"
    ):
        import_trace(tmp_path)
    with pytest.raises(LogError, match=r"no file that ends in \.parquet, \.pq, but a\.csv\.bz2, b\.md; give"):
        import_trace(tmp_path, format="parquet")


@pytest.mark.parametrize(("ending", "pack"), [("bz2", bz2.compress), ("xz", lzma.compress)])
def test_compression_that_is_not_read_is_named(tmp_path, ending, pack):
    packed = pack(b"key\n1\n")
    with pytest.raises(ConfigError, match=rf"log\.csv\.{ending}' is compressed, and only gzip and zstd are read"):
        load(tmp_path / f"log.csv.{ending}", packed)
    for format in ("csv", "oraclegeneral", "lis", "dftracer"):  # noqa: A001
        with pytest.raises(LogError, match=r"log\.csv' is compressed, and only gzip and zstd are read"):
            load(tmp_path / "log.csv", packed, format=format)
