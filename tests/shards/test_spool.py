"""Spool files go with their process, whatever ends it, and spare those of others."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from foreshard.shards.spool import Spool, spool_folder


def test_a_spool_folder_goes_with_its_block_also_when_that_fails(tmp_path):
    with spool_folder(tmp_path) as folder:
        (folder / "0.arrows").write_bytes(b"x")
    with pytest.raises(ValueError, match="inside"), spool_folder(tmp_path):
        raise ValueError("inside")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_uses_is_not(tmp_path):
    code = (
        "import sys; from pathlib import Path; from foreshard.shards.spool import spool_folder\n"
        "with spool_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / '0.arrows').write_bytes(b'x'); print(folder, flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        left = Path(child.stdout.readline().strip())
        with spool_folder(tmp_path):
            assert left.exists(), "its process lives"
        os.kill(child.pid, signal.SIGKILL)
    assert left.exists()
    with spool_folder(tmp_path) as own:
        assert not left.exists()
        assert own.exists()


def test_a_folder_without_a_lock_is_spared_while_it_may_be_in_the_making(tmp_path):
    young, old = tmp_path / "foreshard-spool-young", tmp_path / "foreshard-spool-old"
    for folder in (young, old):
        folder.mkdir()
    os.utime(old, (1, 1))
    with spool_folder(tmp_path):
        assert young.exists()
        assert not old.exists()


def test_rows_come_back_in_the_order_in_which_they_were_added(tmp_path, monkeypatch):
    monkeypatch.setattr("foreshard.shards.spool._HELD", 64)
    schema = pa.schema([("x", pa.int64())])
    files = [str(tmp_path / name) for name in "ab"]
    with Spool(files, schema) as spool:
        for i in range(50):
            spool.add(i % 2, pa.table({"x": [i, i + 100]}, schema=schema))
    found = []
    with pa.OSFile(files[1]) as raw:
        while raw.tell() < raw.size():
            with pa.ipc.open_stream(raw) as stream:
                found += stream.read_all()["x"].to_pylist()
    assert found == [x for i in range(1, 50, 2) for x in (i, i + 100)]
