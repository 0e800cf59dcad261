"""Parts of layouts on a machine's disk: downloaded once for all processes, verified, bounded, and in nobody's way."""

import os
import threading
import time
from dataclasses import replace

import pyarrow as pa
import pytest
from full_disk import files_up_to
from node_world import child, kill
from waiting import wait_until

from foreshard.errors import StorageError
from foreshard.prefetch.node.folder import Folder
from foreshard.prefetch.node.shelf import PartShelf
from foreshard.shards.parts import part_ref

DEADLINE_S = 60


def part_of(raw):
    return part_ref("index", pa.py_buffer(raw))


class Source:
    """Something that parts are downloaded from, and counted."""

    def __init__(self, raw):
        self.raw, self.downloads = raw, 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, handle):
        self.downloads += 1
        self.gate.wait(DEADLINE_S)
        time.sleep(0.05)  # others come meanwhile
        os.pwrite(handle, self.raw, 0)


@pytest.fixture
def source():
    return Source(bytes(range(250)) * 40)


def shelf_in(folder, timeout=DEADLINE_S):
    return PartShelf(Folder(folder / "cache"), timeout)


def names(folder):
    return sorted(path.name for path in (folder / "cache" / "layouts").iterdir())


def test_a_part_is_downloaded_once_for_all_and_mapped_by_each(tmp_path, source):
    found = []
    shelves = [shelf_in(tmp_path) for _ in range(4)]

    def load(shelf):
        found.append(shelf.load(part_of(source.raw), source))

    loading = [threading.Thread(target=load, args=(shelf,)) for shelf in shelves]
    for thread in loading:
        thread.start()
    for thread in loading:
        thread.join(DEADLINE_S)
    assert [bytes(buffer) for buffer in found] == [source.raw] * 4
    assert source.downloads == 1
    assert names(tmp_path) == [f"{part_of(source.raw).sha256}.part"]


@pytest.mark.parametrize("harm", ["short", "wrong", "gone"])
def test_a_part_that_was_damaged_on_disk_is_downloaded_again(tmp_path, source, harm):
    shelf, part = shelf_in(tmp_path), part_of(source.raw)
    kept = shelf.load(part, source)
    path = tmp_path / "cache" / "layouts" / f"{part.sha256}.part"
    path.unlink()
    if harm != "gone":
        path.write_bytes(source.raw[:-1] if harm == "short" else source.raw[:-1] + b"?")
    assert bytes(kept) == source.raw, "who has mapped a part keeps it"
    assert bytes(shelf.load(part, source)) == source.raw
    assert source.downloads == 2
    assert path.read_bytes() == source.raw


def test_what_does_not_verify_is_not_kept(tmp_path, source):
    part = replace(part_of(source.raw), xxh3="0" * 32)
    assert shelf_in(tmp_path).load(part, source) is None
    assert names(tmp_path) == []


def test_a_download_that_fails_leaves_nothing_and_the_next_one_begins_anew(tmp_path, source):
    def fail(handle):
        os.pwrite(handle, source.raw[:100], 0)
        raise StorageError("on purpose")

    shelf = shelf_in(tmp_path)
    with pytest.raises(StorageError, match="on purpose"):
        shelf.load(part_of(source.raw), fail)
    assert names(tmp_path) == []
    assert bytes(shelf.load(part_of(source.raw), source)) == source.raw


def test_a_download_whose_process_is_killed_is_begun_anew_at_once(tmp_path, source):
    part = part_of(source.raw)

    def half(handle):
        os.pwrite(handle, source.raw[:100], 0)
        (tmp_path / "half").touch()
        threading.Event().wait(600)

    def die():
        yield
        shelf_in(tmp_path).load(part, half)

    with child(die) as pid:
        wait_until((tmp_path / "half").exists)
        kill(pid)
    assert names(tmp_path) == [f"{part.sha256}.lock", f"{part.sha256}.new"]
    assert bytes(shelf_in(tmp_path).load(part, source)) == source.raw
    assert names(tmp_path) == [f"{part.sha256}.part"]


def test_whoever_waits_too_long_for_another_reads_for_itself(tmp_path, source, caplog):
    source.gate.clear()
    slow = threading.Thread(target=shelf_in(tmp_path).load, args=(part_of(source.raw), source))
    slow.start()
    wait_until(lambda: source.downloads)
    assert shelf_in(tmp_path, 0.05).load(part_of(source.raw), source) is None
    assert "was held by others for 0.05 s" in caplog.text
    source.gate.set()
    slow.join(DEADLINE_S)
    assert source.downloads == 1


def test_a_full_disk_is_told_and_no_error(tmp_path, source, caplog):
    shelf = shelf_in(tmp_path)
    with files_up_to(100):
        assert shelf.load(part_of(source.raw), lambda handle: _write_all(handle, source.raw)) is None
    assert "is read without the disk tier" in caplog.text
    assert names(tmp_path) == []


def _write_all(handle, raw):
    at = 0
    while at < len(raw):
        at += os.pwrite(handle, raw[at:], at)


def test_those_unused_for_longest_go_and_what_killed_processes_left(tmp_path, monkeypatch):
    monkeypatch.setattr("foreshard.prefetch.node.shelf._KEPT", 3)
    shelf, sources = shelf_in(tmp_path), [Source(bytes([i]) * 100) for i in range(5)]
    folder = tmp_path / "cache" / "layouts"
    (folder / f"{'0' * 64}.new").write_bytes(b"left over")
    (folder / "notes.txt").write_bytes(b"somebody else's")
    for age, source in enumerate(sources[:3]):
        shelf.load(part_of(source.raw), source)
        os.utime(folder / f"{part_of(source.raw).sha256}.part", (age, age))
    shelf.load(part_of(sources[0].raw), sources[0])  # used again
    for source in sources[3:]:
        shelf.load(part_of(source.raw), source)
    kept = {f"{part_of(sources[i].raw).sha256}.part" for i in (0, 3, 4)}
    assert set(names(tmp_path)) == kept | {"notes.txt"}
    assert [source.downloads for source in sources] == [1] * 5
