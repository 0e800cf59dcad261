"""What the tests of the node's cache share: chunks with keys, and what a process does to obtain one."""

import hashlib
import os
import signal
import time
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from foreshard.prefetch.node import NodeCache
from foreshard.prefetch.node.keys import key_of

BUDGET = 1 << 20


def content(number, nbytes=10_000):
    """The bytes of a made-up chunk."""
    return (hashlib.sha256(str(number).encode()).digest() * (nbytes // 32 + 1))[:nbytes]


def key_for(raw):
    """A key as `chunk_keys` makes it: 16 bytes of identity, checksum, size."""
    identity = hashlib.blake2b(raw, digest_size=16).digest()
    return identity + xxhash.xxh3_64_intdigest(raw).to_bytes(8, "little") + len(raw).to_bytes(8, "little")


def claim(cache, raw):
    [found] = cache.claim([key_for(raw)])
    return found


def put(cache, raw):
    """Claim, pretend to fetch, and publish."""
    found = claim(cache, raw)
    assert found.mine
    assert cache.publish(found, raw)


def obtain(cache, raw, fetch, seconds=30.0):
    """Return a chunk as a reader does: from the cache, by waiting, or by fetching it."""
    until = time.monotonic() + seconds
    while True:
        found = claim(cache, raw)
        if found.present:
            got = cache.read(found)
            if got is not None:
                return bytes(got)
        elif found.elsewhere and time.monotonic() < until:
            cache.wait([found], until)
        else:
            got = fetch()
            if found.mine:
                cache.publish(found, got)
            return got


def files(cache):
    """Size of every chunk's file by key, and of the parts; those that others remove meanwhile are left out."""
    sizes = {}
    for path in [*(cache.folder / "chunks").iterdir(), *(cache.folder / "parts").iterdir()]:
        with suppress(FileNotFoundError):
            sizes[path] = path.stat().st_size
    chunks = {key_of(path.name): size for path, size in sizes.items() if path.parent.name == "chunks"}
    return chunks, [size for path, size in sizes.items() if path.parent.name == "parts"]


def die(cache):
    """Make a cache of this process look as if its process had been killed."""
    cache._shared.leave_to_parent()


@contextmanager
def child(action):
    """Run something in a forked process that says when it is ready and then goes on; it is killed with the block.

    Yields:
        Its process id, once `action`, a generator function, has yielded.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        os.close(reading)
        code = 1
        try:
            for _ in action():
                os.write(writing, b"!")
            code = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(code)
    os.close(writing)
    try:
        assert os.read(reading, 1) == b"!", "the child died before it was ready"
        yield pid
    finally:
        os.close(reading)
        kill(pid)


def kill(pid):
    """Kill a child as nothing can be cleaned up after, and wait until it is gone."""
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def note(path: Path, line):
    """Append a line that other processes see whole."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def node_cache(folder, budget=BUDGET, **options):
    return NodeCache(Path(folder) / "cache", budget, **{"timeout": 30.0, **options})
