"""A node's cache between real processes: each chunk fetched once, and nobody's death or stop holds up the others."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from node_world import child, claim, content, files, key_for, kill, node_cache, note, obtain, put

from foreshard.prefetch.node.table import USED

CHUNKS = 40


@pytest.mark.parametrize("budget", [1 << 20, 120_000])
def test_four_processes_fetch_each_chunk_once_as_long_as_it_fits(tmp_path, budget):
    log = tmp_path / "fetches"

    def read(seed):
        cache = node_cache(tmp_path, budget)
        yield
        for turn in range(3):
            for i in range(CHUNKS):
                number = (i * (2 * seed + 1) + turn) % CHUNKS

                def fetch(number=number):
                    note(log, number)
                    time.sleep(0.001)
                    return content(number)

                assert obtain(cache, content(number), fetch) == content(number)
                assert sum(files(cache)[0].values()) <= budget
        note(tmp_path / "done", seed)
        cache.close()

    def ended(pid):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    with (
        child(lambda: read(0)) as a,
        child(lambda: read(1)) as b,
        child(lambda: read(2)) as c,
        child(lambda: read(3)) as d,
    ):
        assert [ended(pid) for pid in (a, b, c, d)] == [True] * 4
    assert sorted((tmp_path / "done").read_text().split()) == ["0", "1", "2", "3"]
    fetches = Counter(int(line) for line in log.read_text().split())
    assert set(fetches) == set(range(CHUNKS))
    cache = node_cache(tmp_path, budget)
    chunks, parts = files(cache)
    assert sum(chunks.values()) == cache.used_bytes <= budget
    assert parts == []
    if budget > CHUNKS * 10_000:
        assert set(fetches.values()) == {1}
    cache.close()


def test_a_process_killed_in_a_fetch_is_replaced_and_its_bytes_come_back(tmp_path):
    cache, raw = node_cache(tmp_path), content(1)

    def fetch():
        theirs = node_cache(tmp_path)
        assert claim(theirs, raw).mine
        assert claim(theirs, content(2)).mine
        part = theirs._folder.part(theirs._shared.nonce)
        part.write_bytes(raw[:500])
        yield
        time.sleep(60)  # a slow store

    with child(fetch) as pid:
        waiting = claim(cache, raw)
        assert waiting.elsewhere
        assert cache.used_bytes == 20_000
        cache.wait([waiting], time.monotonic() + 0.05)
        assert claim(cache, raw).elsewhere, "it is waited for while it lives"
        kill(pid)
        begin = time.monotonic()
        assert obtain(cache, raw, lambda: raw) == raw
        assert time.monotonic() - begin < 10, "long before its claim runs out"
    assert cache.stats().stolen == 1
    assert files(cache) == ({key_for(raw): 10_000}, [])
    assert cache.used_bytes == 10_000
    cache.close()


def test_bytes_of_a_dead_process_are_given_back_when_room_is_needed(tmp_path):
    cache = node_cache(tmp_path, 25_000)

    def fetch():
        theirs = node_cache(tmp_path, 25_000)
        assert claim(theirs, content(1)).mine
        assert claim(theirs, content(2)).mine
        yield
        time.sleep(60)

    with child(fetch) as pid:
        assert not claim(cache, content(3)).mine
        kill(pid)
        assert claim(cache, content(3)).mine
    assert cache.used_bytes == 10_000
    cache.close()


def test_a_process_killed_while_it_changes_the_state_leaves_nothing_wrong(tmp_path):
    cache = node_cache(tmp_path)
    put(cache, content(1))

    def change():
        theirs = node_cache(tmp_path)
        assert claim(theirs, content(2)).mine
        with theirs._shared.exclusive() as ledger:
            ledger.table.head[USED] += 99_999
            theirs._folder.chunk(key_for(content(1))).unlink()
            yield
            time.sleep(60)

    with child(change) as pid:
        kill(pid)
        assert claim(cache, content(1)).mine
    assert cache.used_bytes == 10_000
    cache.close()


def test_a_child_that_outlives_its_parent_does_not_keep_the_parents_claims(tmp_path):
    cache, raw = node_cache(tmp_path), content(1)

    def parent():
        theirs = node_cache(tmp_path)
        assert claim(theirs, raw).mine
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        (tmp_path / "pid").write_text(str(pid))
        yield
        time.sleep(60)

    with child(parent) as pid:
        waiting = claim(cache, raw)
        assert waiting.elsewhere
        kill(pid)
        try:
            cache.wait([waiting], time.monotonic() + 10)  # the child may not have run yet
            assert claim(cache, raw).mine
        finally:
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    cache.close()


def test_a_forked_child_is_a_participant_of_its_own_and_harms_none_of_its_parents_claims(tmp_path):
    cache = node_cache(tmp_path)
    put(cache, content(1))
    mine = claim(cache, content(2))

    def read():
        assert not cache.publish(mine, content(2)), "a claim is not inherited"
        assert claim(cache, content(1)).present
        assert claim(cache, content(2)).elsewhere
        put(cache, content(3))
        note(tmp_path / "said", cache.stats().published)
        yield
        time.sleep(60)

    with child(read) as pid:
        assert (tmp_path / "said").read_text().split() == ["2"]
        table = cache._shared.ledger.table
        assert sorted(table.pids[table.pids > 0].tolist()) == sorted([os.getpid(), pid])
    assert cache.publish(mine, content(2))
    assert claim(cache, content(3)).present
    cache.close()


def test_many_short_lived_processes_leave_no_participant_behind(tmp_path):
    cache = node_cache(tmp_path)

    def come():
        theirs = node_cache(tmp_path)
        assert claim(theirs, content(1)).mine or True
        yield
        time.sleep(60)

    for _ in range(5):
        with child(come):
            pass
    node_cache(tmp_path).close()
    table = cache._shared.ledger.table
    assert table.pids[table.pids > 0].tolist() == [os.getpid()]
    assert cache.used_bytes == 0
    cache.close()


_USE = """
import os, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from node_world import claim, content, node_cache, put
cache = node_cache(Path(sys.argv[1]))
put(cache, content(1))
assert claim(cache, content(2)).mine
mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if "/dev/shm" in line]
print("named memory:", *mapped)
print("children:", *(path.read_text() for path in Path("/proc/self/task").glob("*/children")))
os.kill(os.getpid(), 9)
"""


def test_a_killed_process_leaves_no_helper_and_no_name_in_shared_memory_behind(tmp_path):
    command = [sys.executable, "-c", _USE, str(tmp_path), *sys.path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [line.strip() for line in done.stdout.splitlines()] == ["named memory:", "children:"]
    assert done.stderr == ""
    cache = node_cache(tmp_path)
    assert claim(cache, content(1)).present
    assert cache.used_bytes == 10_000
    cache.close()


def test_threads_that_use_a_cache_while_it_is_closed_get_it_or_join_again(tmp_path):
    cache, wrong = node_cache(tmp_path), []

    def use():
        for number in range(60):
            raw = content(number % 7)
            try:
                if obtain(cache, raw, lambda raw=raw: raw) != raw:
                    wrong.append(number)
            except Exception as error:  # noqa: BLE001
                wrong.append(error)

    running = [threading.Thread(target=use) for _ in range(4)]
    for thread in running:
        thread.start()
    while any(thread.is_alive() for thread in running):
        cache.close()
        time.sleep(0.002)
    assert wrong == []
    cache.close()
    again = node_cache(tmp_path)
    assert again.used_bytes == sum(files(again)[0].values())
    assert again._shared.ledger.participants.listed() == [again._shared.me]
    again.close()
