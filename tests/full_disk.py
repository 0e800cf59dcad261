"""A disk that is full, by the kernel's own limit."""

import resource
from contextlib import contextmanager


@contextmanager
def files_up_to(nbytes):
    """Let no file of this process grow beyond so many bytes: writes fail as on a full disk, by the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
