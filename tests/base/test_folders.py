"""Folders of results are there whole or not at all, and nobody else's files are lost to them."""

import os
from pathlib import Path

import pytest

from foreshard.errors import ConfigError, StorageError
from foreshard.folders import check_folder, write_folder

KNOWN = {"a.json", "b.png", "c.html"}


def contents(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def test_a_new_folder_holds_the_files_and_nothing_else_is_left(tmp_path):
    folder = tmp_path / "deep" / "out"
    write_folder(folder, {"a.json": b"1", "b.png": b"2"}, KNOWN)
    assert contents(folder) == {"a.json": b"1", "b.png": b"2"}
    assert [each.name for each in folder.parent.iterdir()] == ["out"]


def test_an_empty_folder_is_as_good_as_none(tmp_path):
    (tmp_path / "out").mkdir()
    write_folder(tmp_path / "out", {"a.json": b"1"}, KNOWN)
    assert contents(tmp_path / "out") == {"a.json": b"1"}


def test_older_results_are_replaced_only_when_asked_to(tmp_path):
    folder = tmp_path / "out"
    write_folder(folder, {"a.json": b"1", "b.png": b"2"}, KNOWN)
    with pytest.raises(ConfigError, match=r"out' holds another run's output \(a\.json, b\.png\).*--force"):
        write_folder(folder, {"a.json": b"3"}, KNOWN)
    assert contents(folder) == {"a.json": b"1", "b.png": b"2"}
    write_folder(folder, {"a.json": b"3"}, KNOWN, replace=True)
    assert contents(folder) == {"a.json": b"3"}  # an older picture would contradict the newer figures
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("replace", [False, True])
def test_what_is_not_ours_is_never_touched(tmp_path, replace):
    folder = tmp_path / "out"
    write_folder(folder, {"a.json": b"1"}, KNOWN)
    (folder / "thesis.tex").write_text("years", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        write_folder(folder, {"a.json": b"2"}, KNOWN, replace=replace)
    (folder / "thesis.tex").unlink()
    (folder / "b.png").mkdir()
    with pytest.raises(ConfigError, match=r"b\.png"):
        write_folder(folder, {"a.json": b"2"}, KNOWN, replace=replace)
    assert (folder / "a.json").read_bytes() == b"1"


def test_a_file_or_a_link_is_no_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(ConfigError, match=f"{name}' is not a folder"):
            check_folder(tmp_path / name, KNOWN, replace=True)


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_failure_leaves_the_older_results(tmp_path, monkeypatch, failing):
    folder = tmp_path / "out"
    write_folder(folder, {"a.json": b"1"}, KNOWN)

    def interrupted(*_):
        raise KeyboardInterrupt

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", interrupted)
    else:
        rename = Path.rename
        monkeypatch.setattr(Path, "rename", lambda p, to: interrupted() if p.name == "new" else rename(p, to))
    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, {"a.json": b"2"}, KNOWN, replace=True)
    assert contents(folder) == {"a.json": b"1"}
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_results_of_a_run_that_was_quicker_are_not_lost(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    fsync = os.fsync

    def overtaken(*_) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        write_folder(folder, {"a.json": b"theirs"}, KNOWN)

    monkeypatch.setattr(os, "fsync", overtaken)
    with pytest.raises(StorageError, match=r"out'.*not empty"):
        write_folder(folder, {"a.json": b"ours"}, KNOWN)
    assert contents(folder) == {"a.json": b"theirs"}
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"file/out'.*choose a folder"):
        write_folder(tmp_path / "file" / "out", {"a.json": b"1"}, KNOWN)
