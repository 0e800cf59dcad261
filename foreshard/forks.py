"""Whether obstore may be called in this process: not in one that was forked from a process that had called it.

obstore's runtime (tokio) is one per process and cannot be replaced. Its threads stay with the parent, so that a call in
the child waits for ever, with no deadline that anything could keep: those are kept by the same threads. What did come
along is the runtime's epoll descriptor, which both processes share from then on: a connection that the child opens is
registered there, and takes the parent's events away, whose requests then hang as well. So such a call must not even be
tried. Measured with obstore 0.12.1; before a process's first call there is no runtime, and its children may have one.
"""

import os

from foreshard.errors import ConfigError

_used = False
_lost = False


def enter(url: str) -> None:
    """Note that obstore is about to be called; the calls that make no request, such as a client's making, don't count.

    Args:
        url: the store's URL, for the message.

    Raises:
        ConfigError: this process was forked from one that had called it.
    """
    global _used  # noqa: PLW0603 - obstore's runtime is the process's, too
    check(url)
    _used = True


def check(url: str) -> None:
    """Refuse what would hang.

    Raises:
        ConfigError: as `enter`.
    """
    if _lost:
        raise ConfigError(
            f"{url} cannot be used in process {os.getpid()}: it was forked from one that had used an object store, and "
            "obstore's threads do not survive a fork. Start it by spawn or forkserver, or fork before the parent uses "
            "any store; a DataLoader's forked workers may read by data_loader or TorchDataset"
        )


def lost() -> bool:
    """Whether this process was forked from one that had called obstore."""
    return _lost


def _in_child() -> None:
    global _lost  # noqa: PLW0603
    _lost = _lost or _used


os.register_at_fork(after_in_child=_in_child)
