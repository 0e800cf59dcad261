"""A forked child cannot use obstore after its parent did: it is told so at once, and the parent works on."""

import multiprocessing
import os
import signal

import pytest

from foreshard import forks
from foreshard.errors import ConfigError
from foreshard.storage import ObjectStore

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

REFUSED = "forked from one that had used an object store.* spawn or forkserver"
DEADLINE_S = 20


def in_child(action):
    """Run something in a forked child under a deadline; return its exit code."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(DEADLINE_S)  # a child that hangs is killed
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def refused(*actions):
    def run():
        for action in actions:
            with pytest.raises(ConfigError, match=REFUSED):
                action()

    return run


def every_use(store):
    return (
        lambda: store.get("k"),
        lambda: store.get_tagged("k"),
        lambda: store.get_ranges("k", [(0, 1)]),
        lambda: store.head("k"),
        lambda: store.folders(""),
        lambda: list(store.list("")),
        lambda: store.put("k", b"new"),
        lambda: store.create("l", b"new"),
        lambda: store.put_content("k", b"new"),
        lambda: store.swap("k", b"new", None),
        lambda: store.delete(["k"]),
    )


def used(store):
    store.put("k", b"content")
    assert store.get("k") == b"content"
    return store


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_a_forked_child_is_refused_every_use_of_a_store_and_its_parent_works_on(tmp_path, scheme):
    store = used(ObjectStore.open(tmp_path.as_uri() if scheme == "file" else "memory://"))
    assert in_child(refused(*every_use(store), lambda: ObjectStore.open(store.url))) == 0
    assert store.get("k") == b"content"
    assert [found.key for found in store.list("")] == ["k"]


@pytest.mark.s3
def test_a_forked_child_that_opens_an_s3_store_is_refused_and_its_parents_requests_go_on(seaweedfs_location):
    store = used(seaweedfs_location.open())
    assert in_child(refused(seaweedfs_location.open, *every_use(store), lambda: store.direct()._url("k"))) == 0
    for _ in range(20):
        assert store.get("k") == b"content"
    assert used(seaweedfs_location.open()).get_range("k", 0, 3) == b"con"


def test_a_grandchild_is_refused_as_well(tmp_path):
    store = used(ObjectStore.open(tmp_path.as_uri()))

    def grandchild():
        assert in_child(refused(lambda: store.get("k"))) == 0

    assert in_child(grandchild) == 0


def test_ranges_of_local_files_are_read_in_a_forked_child(tmp_path):
    store = used(ObjectStore.open(tmp_path.as_uri()))

    def read():
        assert store.get_range("k", 1, 4) == b"ont"

    assert in_child(read) == 0


def test_a_process_that_forks_before_it_uses_a_store_harms_nobody(tmp_path, monkeypatch):
    store = ObjectStore.open(tmp_path.as_uri())
    monkeypatch.setattr(forks, "_used", False)  # as in a process that has just begun

    def lost():
        assert not forks.lost()

    assert in_child(lost) == 0
    used(store)
    assert in_child(refused(lambda: store.get("k"))) == 0


def _get(store):
    return store.get("k")


def test_a_pool_of_forked_processes_tells_of_the_refusal_instead_of_never_answering(tmp_path):
    store = used(ObjectStore.open(tmp_path.as_uri()))
    with multiprocessing.get_context("fork").Pool(1) as pool, pytest.raises(ConfigError, match=REFUSED):
        pool.apply_async(_get, (store,)).get(DEADLINE_S)


@pytest.mark.s3
def test_a_pool_of_forked_processes_tells_of_an_s3_store_as_well(seaweedfs_location):
    store = used(seaweedfs_location.open())
    with multiprocessing.get_context("fork").Pool(1) as pool, pytest.raises(ConfigError, match=REFUSED):
        pool.apply_async(_get, (store,)).get(DEADLINE_S)
    assert store.get("k") == b"content"
