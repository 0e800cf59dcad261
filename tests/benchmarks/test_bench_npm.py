"""Data from npm packages is what it was when the benchmark was written, or nothing."""

import hashlib
import io
import tarfile

import pytest

from benchmarks.npm import package_files

FILES = {"data/a": b"first", "data/b": b"second"}
DIGESTS = {path: hashlib.sha256(raw).hexdigest() for path, raw in FILES.items()}


@pytest.fixture
def _npm(tmp_path, monkeypatch):
    """An npm whose every package holds these files."""
    with tarfile.open(tmp_path / "packed.tgz", "w:gz") as archive:
        for path, raw in FILES.items():
            member = tarfile.TarInfo(f"package/{path}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    program = tmp_path / "npm"
    program.write_text(f'#!/bin/sh\nexec cp "{tmp_path}/packed.tgz" "$5"\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


@pytest.mark.usefixtures("_npm")
def test_files_come_in_the_order_asked_for():
    assert package_files("some@1", DIGESTS) == [b"first", b"second"]
    assert package_files("some@1", dict(reversed(DIGESTS.items()))) == [b"second", b"first"]


@pytest.mark.usefixtures("_npm")
def test_a_file_that_changed_is_refused():
    with pytest.raises(SystemExit, match="data/b of some@1 is not the file"):
        package_files("some@1", DIGESTS | {"data/b": DIGESTS["data/a"]})


def test_a_missing_npm_is_named_with_what_it_is_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="npm is not on PATH; it fetches the package some@1"):
        package_files("some@1", DIGESTS)
