"""Which file system a folder lies on: locks and mapped files are only good on one of this machine's own."""

import re
from pathlib import Path
from typing import Final

from foreshard.errors import ConfigError

MOUNTS: Final = Path("/proc/self/mountinfo")

# fmt: off
_REMOTE: Final = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs",
    "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb", "smb3", "smbfs", "virtiofs", "wekafs",
})
# fmt: on
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def file_system(folder: Path, mounts: str) -> str:
    """Return the type of the file system that a folder lies on; empty if no mount holds it.

    Args:
        folder: absolute and without symbolic links.
        mounts: content of `/proc/self/mountinfo`.
    """
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        point = Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields.split(" ")[4]))
        # Of several mounts on one point the last is what one sees.
        if len(point.parts) >= best and folder.is_relative_to(point):
            best, kind = len(point.parts), rest.split(" ")[0]
    return kind


def check_local(folder: Path, mounts: Path = MOUNTS) -> None:
    """Refuse a folder that other machines may share, or whose locks another program emulates.

    Args:
        folder: an existing folder.
        mounts: where the kernel lists the mounts of this process; where it does not, nothing is refused.

    Raises:
        ConfigError: it lies on a network or FUSE file system.
    """
    try:
        listed = mounts.read_text()
    except OSError:
        return
    kind = file_system(folder.resolve(), listed)
    if kind in _REMOTE or kind.startswith("fuse"):
        raise ConfigError(
            f"folder {str(folder)!r} of the node cache lies on {kind}: its locks and mapped files are not dependable "
            "there; name a folder on a disk of this machine, such as an NVMe drive"
        )
