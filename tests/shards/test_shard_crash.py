"""SIGKILL at any write step, on real S3 servers: readers see a whole generation, and running again finishes it."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import S3Server
from shardkit import build_plan, sample_table, splits_of, successor, write_source

from foreshard.layout.plan import Plan
from foreshard.shards.repository import Repository
from foreshard.source import SourceReader
from foreshard.storage import ObjectStore

ROWS = 260
MUTABLE = ("data/current.json", "data/gc.json")


class Crashes:
    """A store with one published generation, copied afresh for every crash, and the process that crashes."""

    def __init__(self, folder: Path, server: S3Server) -> None:
        self.server, self.folder = server, folder
        self.url = f"s3://{server.create_bucket()}"
        self.snapshot = write_source(folder / "source", sample_table(ROWS))
        self.child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("crash_child.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **server.environment},
        )
        self.plan = [folder / "plan.json", folder / "plan.arrow"]
        self.old, self.new = self._prepare()

    def _prepare(self) -> tuple[Plan, Plan]:
        repository = self.repository("template")
        repository.save_snapshot(self.snapshot, splits_of(self.snapshot))
        old = build_plan(self.snapshot, chunk_rows=8, shard_chunks=2)
        made = repository.materialize(old, SourceReader(self.snapshot))
        repository.publish(repository.commit(made.manifest))
        new = successor(old, "demo.e000004", share=0.7)
        for path, raw in zip(self.plan, new.to_bytes(), strict=True):
            path.write_bytes(raw)
        assert 0 < new.inherited.shards < new.column("shard").max()
        return old, new

    def repository(self, place: str) -> Repository:
        return Repository(ObjectStore.open(f"{self.url}/{place}", endpoint=self.server.endpoint), "data")

    def copy(self) -> str:
        place, source = uuid.uuid4().hex, self.repository("template").store
        target = self.repository(place).store
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(lambda meta: target.put(meta.key, source.get(meta.key)), list(source.list("data"))):
                pass
        return place

    def run(self, place: str, die: str | None = None) -> tuple[int, list[tuple[str, str]]]:
        """Re-shard; return the signal that ended it, and the (step, key) pairs it told of."""
        log = self.folder / f"{uuid.uuid4().hex}.log"
        order = {
            "url": f"{self.url}/{place}",
            "endpoint": self.server.endpoint,
            "plan": [str(path) for path in self.plan],
            "log": str(log),
            "die": die,
        }
        assert self.child.stdin
        assert self.child.stdout
        print(json.dumps(order), file=self.child.stdin, flush=True)
        ended = json.loads(self.child.stdout.readline())
        return ended, [tuple(json.loads(line)) for line in log.read_text().splitlines()]

    def close(self) -> None:
        self.child.communicate(timeout=30)
        assert self.child.returncode == 0


@pytest.fixture
def crashes(tmp_path: Path, s3_server: S3Server) -> Iterator[Crashes]:
    made = Crashes(tmp_path, s3_server)
    yield made
    made.close()


def written(steps: list[tuple[str, str]]) -> set[str]:
    """Return the objects whose writing was told as done."""
    return {key for name, key in steps if name.startswith(("after put", "after create", "after swap"))}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_at_any_write_step_leaves_a_whole_generation_and_a_second_run_finishes_it(crashes):
    ended, steps = crashes.run(crashes.copy())
    assert ended == 0
    points = [name for name, _ in steps]
    assert len(points) == len(set(points)) >= 40
    parts = ("/plan-", "/shards-", "/index-", "/manifest-", "/consistency-", "/plan.json", "/manifest.json")
    for part in (*parts, "/shards/", "/journal/", "publications", "swap data/current.json"):
        assert any(part in point for point in points), f"no step {part}"

    for point in points:
        place = crashes.copy()
        ended, before = crashes.run(place, die=point)
        assert ended == signal.SIGKILL, point
        repository = crashes.repository(place)
        published = any(name.startswith("after swap data/current.json") for name, _ in before)
        current = repository.open()
        assert current.ref == (crashes.new.ref if published else crashes.old.ref)
        refs = [ref for generation in repository.generations() for ref in repository.layouts(generation)]
        assert current.ref in refs
        for ref in refs:
            report = repository.verify(ref)
            assert report.ok, (point, report.problems)

        there = {meta.key for meta in repository.store.list("data")}
        ended, after = crashes.run(place)
        assert ended == 0, point
        twice = {key for key in written(after) & there if key not in MUTABLE}
        assert not twice, f"written again after {point}"
        assert repository.open().ref == crashes.new.ref
        assert repository.verify(crashes.new.ref).ok
        assert not [meta.key for meta in repository.store.list("data") if "/journal/" in meta.key]


def test_a_second_run_of_a_finished_reshard_writes_nothing(crashes):
    place = crashes.copy()
    crashes.run(place)
    ended, steps = crashes.run(place)
    assert ended == 0
    assert not {key for key in written(steps) if "/leases/" not in key}


def test_the_header_is_written_after_everything_it_names_and_before_the_pointer(crashes):
    place = crashes.copy()
    _, steps = crashes.run(place)
    done = [key for name, key in steps if not name.startswith("before")]
    repository = crashes.repository(place)
    manifest = repository.open()
    layout = f"data/layouts/{manifest.ref.generation}/{manifest.ref.plan_digest}"
    header = done.index(f"{layout}/manifest.json")
    names = {f"{layout}/{part.name}" for part in manifest.header.parts.values()}
    names |= {shard.key for shard in manifest.shards if shard.key in done}
    assert names <= set(done[:header])
    assert header < done.index("data/current.json")


def test_a_reader_keeps_its_generation_while_a_newer_one_appears(crashes):
    place = crashes.copy()
    repository = crashes.repository(place)
    pinned = repository.open()
    first = repository.read_chunks(pinned, range(len(pinned)))
    assert crashes.run(place)[0] == 0
    assert repository.open().ref != pinned.ref
    again = repository.read_chunks(pinned, range(len(pinned)))
    assert all(a.equals(b) for a, b in zip(first, again, strict=True))
