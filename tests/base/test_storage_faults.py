"""Through a bad network every call ends in time, with its right effect or an error; no wrong byte is ever stored."""

import hashlib
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
from faults import FAULTS, FaultProxy

from foreshard import storage_writes
from foreshard.errors import ConflictError, StorageError, UnreachableError
from foreshard.storage import ObjectStore, Timeouts

MIB = 1 << 20
QUICK = Timeouts(connect=2, read=1, write=2, request=15, retry=6, retries=4)
SECONDS_PER_CALL = QUICK.deadline(4)


def _random(size, seed):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


@contextmanager
def _faulty(server, rates, *, seed=0, timeouts=QUICK, stall=3.0):
    """Yield a store that is reached through a faulty proxy, one that is not, and the proxy; both opened in peace."""
    url = f"s3://{server.create_bucket()}/p"
    with FaultProxy(server.endpoint, seed, {}, stall=stall) as proxy:
        store = ObjectStore.open(url, endpoint=proxy.endpoint, timeouts=timeouts)
        proxy.rates = rates
        yield store, ObjectStore.open(url, endpoint=server.endpoint), proxy


@contextmanager
def _calm_after(proxy, count):
    """End the faults as soon as there were so many, within the block."""

    def watch():
        while proxy.counts.total() < count:
            time.sleep(0.002)
        proxy.rates = {}

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield
    watcher.join(10)
    assert not watcher.is_alive()


class _Calls:
    """Makes calls that may fail with a StorageError within the deadline, and with nothing else."""

    def __init__(self):
        self.failed = Counter()
        self.made = 0

    def __call__(self, name, work, *allowed):
        start = time.monotonic()
        self.made += 1
        try:
            return work()
        except allowed:
            raise
        except StorageError:
            self.failed[name] += 1
            return None
        finally:
            assert time.monotonic() - start < SECONDS_PER_CALL, f"{name} did not end within its deadline"


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(storage_writes, "MULTIPART_BYTES", 6 * MIB)
    monkeypatch.setattr(storage_writes, "_PART_BYTES", 5 * MIB)


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_at_five_percent_of_each_fault_every_call_is_right_or_an_error(s3_server):
    rates = dict.fromkeys(FAULTS, 0.05)
    with _faulty(s3_server, rates, seed=7) as (store, direct, proxy):
        calls, written, wrong = _Calls(), {}, Counter()

        def work(number):
            data = _random(20_000 + number, number)
            large = _random(11 * MIB, number) if number % 6 == 0 else data
            if calls("create", lambda: store.create(f"create/{number}", data)) is not None:
                written[f"create/{number}"] = data
            if calls("content", lambda: store.put_content(f"content/{number}", large)) is not None:
                written[f"content/{number}"] = large
            if f"create/{number}" in written:
                assert calls("create again", lambda: store.create(f"create/{number}", data)) in {False, None}
                for name, read, expected in (
                    ("get", lambda: store.get(f"create/{number}"), data),
                    ("get_range", lambda: store.get_range(f"create/{number}", 100, 15_000), data[100:15_000]),
                    (
                        "get_ranges",
                        lambda: b"".join(store.get_ranges(f"create/{number}", [(9, 99), (0, 9), (99, 20_000)])),
                        data[9:99] + data[:9] + data[99:20_000],
                    ),
                ):
                    found = calls(name, read)
                    if found is not None and bytes(found) != expected:
                        wrong[name] += 1  # damaged on its way: the checksums of the layers above tell
                        assert len(found) == len(expected)
            calls("put", lambda: store.put(f"gone/{number}", data))
            if calls("delete", lambda: [store.delete([f"gone/{number}"])]):
                assert not direct.exists(f"gone/{number}")
            calls("list", lambda: list(store.list("create")))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(60)))
        assert set(proxy.counts) == set(FAULTS), "every fault was met"
        assert calls.failed.total() < calls.made / 20, f"most calls get over a fault: {calls.failed}"
        assert wrong.total() <= proxy.counts["flip_response"]
        for key, data in written.items():
            assert direct.get(key) == data, f"{key} was damaged"
        assert {meta.key for meta in direct.list("")} >= set(written)


@pytest.mark.slow
def test_no_increment_is_lost_or_made_twice_under_faults(s3_server):
    def seal(state):
        body = json.dumps(state, sort_keys=True)
        return json.dumps({"body": body, "digest": hashlib.sha256(body.encode()).hexdigest()}).encode()

    def unseal(raw):
        """None if the answer was damaged on its way."""
        try:
            found = json.loads(raw)
            intact = hashlib.sha256(found["body"].encode()).hexdigest() == found["digest"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return json.loads(found["body"]) if intact else None

    with _faulty(s3_server, dict.fromkeys(FAULTS, 0.05), seed=11) as (store, direct, proxy):
        direct.swap("counter", seal({"count": 0, "made": []}), None)
        calls = _Calls()

        def swap(new, expected):
            store.swap("counter", new, expected)
            return True

        def increment(token):
            while True:
                found = calls("get", lambda: store.get_tagged("counter"))
                state = None if found is None else unseal(found[0])
                if state is None:
                    continue
                if token in state["made"]:  # a swap whose fate could not be told had succeeded
                    return
                new = seal({"count": state["count"] + 1, "made": [*state["made"], token]})
                try:
                    if calls("swap", partial(swap, new, found[1]), ConflictError):
                        return
                except ConflictError:
                    continue

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(increment, [f"{thread}/{i}" for i in range(12) for thread in range(3)]))
        state = unseal(direct.get("counter"))
        assert state["count"] == len(state["made"]) == len(set(state["made"])) == 36
        assert proxy.counts.total() > 10


def test_of_racing_creators_at_most_one_wins_under_faults(s3_server):
    rates = {"lost_response": 0.2, "reset": 0.1, "error": 0.1}
    with _faulty(s3_server, rates, seed=3) as (store, direct, proxy):
        for attempt in range(3):
            barrier = threading.Barrier(4)

            def create(i, key=f"race/{attempt}", barrier=barrier):
                barrier.wait(10)
                try:
                    return store.create(key, f"writer {i}".encode())
                except StorageError:
                    return False

            with ThreadPoolExecutor(4) as pool:
                won = list(pool.map(create, range(4)))
            assert won.count(True) <= 1
            if True in won:
                assert direct.get(f"race/{attempt}") == f"writer {won.index(True)}".encode()
        assert proxy.counts["lost_response"]


@pytest.mark.parametrize("expected", [None, "tag"])
def test_a_write_whose_response_was_lost_has_succeeded_not_conflicted(s3_server, expected):
    with _faulty(s3_server, {"lost_response": 1.0}) as (store, direct, proxy):
        if expected:
            direct.put("a", b"old")
            expected = direct.get_tagged("a")[1]
        with _calm_after(proxy, 1):
            store.swap("a", b"new, by a token", expected)
        assert direct.get("a") == b"new, by a token"
        proxy.rates = {"lost_response": 1.0}
        with _calm_after(proxy, 2):
            assert store.create("b", b"mine") is False
        assert direct.get("b") == b"mine"
        proxy.rates = {"lost_response": 1.0}
        with _calm_after(proxy, 3), pytest.raises(ConflictError):
            store.swap("b", b"of a stale reader", "stale")
        assert direct.get("b") == b"mine"


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [100_000, 7 * MIB])
def test_an_upload_that_is_always_damaged_is_an_error_and_nothing_is_stored(s3_server, size):
    with _faulty(s3_server, {"flip_request": 1.0}) as (store, direct, proxy):
        data = _random(size, 0)
        for write in (store.put, store.put_content, store.create):
            with pytest.raises(StorageError, match=r"'a' in .*(BadDigest|Mismatch|MalformedXML|InvalidPart)"):
                write("a", data)
        assert proxy.counts["flip_request"] >= 3 * (QUICK.retries + 1), "each was tried again"
        assert list(direct.list("")) == []
        proxy.rates = {}
        assert store.put_content("a", data) is True
        assert direct.get("a") == data


def test_a_delete_never_strikes_another_object_however_damaged_its_requests_are(s3_server):
    keys = [f"{'k' * 200}{i:03d}" for i in range(200)]
    with _faulty(s3_server, {"flip_request": 1.0}) as (store, direct, _):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: direct.put(key, b"x"), keys))
        store.delete(keys[::2])
        assert [meta.key for meta in direct.list("")] == keys[1::2]


@pytest.mark.parametrize("fault", ["truncate", "reset", "stall"])
def test_a_body_that_breaks_off_is_read_again(s3_server, fault):
    with _faulty(s3_server, {}) as (store, direct, proxy):
        data = _random(2 * MIB, 0)
        direct.put("a", data)
        proxy.rates = {fault: 0.4}
        for _ in range(5):
            assert store.get("a") == data
            assert store.get_range("a", 10, MIB) == data[10:MIB]
            assert b"".join(store.get_ranges("a", [(0, 9), (MIB, 2 * MIB)])) == data[:9] + data[MIB:]
        assert proxy.counts[fault] >= 3


def test_a_server_that_falls_silent_is_an_error_within_the_deadline(s3_server):
    quick = Timeouts(connect=1, read=0.2, write=0.3, request=5, retry=1, retries=2)
    with _faulty(s3_server, {"stall": 1.0}, timeouts=quick, stall=30) as (store, _, _):
        for ask in (
            lambda: store.get("a"),
            lambda: store.put("a", b"x"),
            lambda: store.create("a", b"x"),
            lambda: store.swap("a", b"x", None),
            lambda: store.delete(["a"]),
            lambda: list(store.list("")),
            lambda: store.uploads(""),
        ):
            start = time.monotonic()
            with pytest.raises(UnreachableError, match="cannot be reached"):
                ask()
            assert time.monotonic() - start < quick.deadline()
