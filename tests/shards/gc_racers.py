"""What races and gets killed in `test_gc_races`: readers, writers and collectors, each in a process of its own."""

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
from shardkit import build_plan

from foreshard.errors import ConflictError, ObjectNotFoundError
from foreshard.keys import DatasetKeys, generation_key
from foreshard.retention import RetentionConfig
from foreshard.shards.gc import run_gc
from foreshard.shards.gc_report import GcReport
from foreshard.shards.gc_state import SweepTimes
from foreshard.shards.repository import Repository
from foreshard.source import Snapshot, SourceReader
from foreshard.storage import ObjectStore
from foreshard.storage_writes import Write

KEYS = DatasetKeys("data")
NOW_ONLY = RetentionConfig(keep_generations=1, keep_hours=0, orphan_hours=0)
TIMES = SweepTimes(seconds=30, margin=10, batch=5, look=0)


@dataclass(frozen=True)
class Place:
    """Where a repository is, for another process."""

    url: str
    endpoint: str | None
    snapshot: Snapshot
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def open(self) -> Repository:
        os.environ.update(self.environment)
        return Repository(ObjectStore.open(self.url, endpoint=self.endpoint), "data")


def start(target, *args) -> multiprocessing.Process:
    """Start a process. It is forked from one without threads and clients, which takes milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gc_racers"])
    process = context.Process(target=target, args=args, daemon=True)
    process.start()
    return process


def collect(repository: Repository) -> GcReport | None:
    """Collect; None if somebody else does."""
    with suppress(ConflictError):
        return run_gc(repository.store, KEYS, NOW_ONLY, times=TIMES)
    return None


def collect_until(place: Place, done, deleted) -> None:
    repository = place.open()
    while not done.is_set():
        report = collect(repository)
        deleted.value += report.deleted if report else 0
        time.sleep(0.005)


def write(place: Place, run: str, rounds: int) -> None:
    """Publish generation after generation; of two in turn one finds shards of an earlier one."""
    repository, chance = place.open(), np.random.default_rng(ord(run))
    for number in range(rounds):
        generation = generation_key(run, number)
        with repository.lease_writer(generation) as lease:
            plan = replace(build_plan(place.snapshot, order_seed=number // 2), generation=generation)
            made = repository.materialize(plan, SourceReader(place.snapshot))
            lease.renew()
            ref = repository.commit(made.manifest)
            lease.renew()
            assert repository.publish(ref).changed
        time.sleep(chance.random() * 0.1)


def read(place: Place, seed: int, done, reads) -> None:
    """Open the current layout, or one that was current, and read all of it twice."""
    repository, chance = place.open(), np.random.default_rng(seed)
    while not done.is_set():
        wanted = None
        if chance.random() < 0.5:
            newest = [publication.ref for publication in repository.publications()][:4]
            wanted = newest[chance.integers(len(newest))]
        try:
            lease = repository.lease_reader(wanted)
        except ObjectNotFoundError:
            assert wanted is not None, "the current layout is always there"
            continue
        with lease:
            manifest = repository.open(lease.ref)
            for _ in range(2):
                batches = repository.read_chunks(manifest, range(len(manifest)))
                assert sum(batch.num_rows for batch in batches) == manifest.header.rows
                time.sleep(chance.random() * 0.1)  # a generation or two go by
            reads.value += 1


def collect_and_die(place: Place, at: int) -> None:
    """Collect, and get killed at the n-th moment before or after a write."""
    repository, moments = place.open(), [0]

    def count(_: Write) -> None:
        if moments[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        moments[0] += 1

    repository.store.on_write = count
    assert run_gc(repository.store, KEYS, NOW_ONLY, times=TIMES).complete


def hold(place: Place, ref, ttl: float, holding) -> None:
    """Hold a layout until killed."""
    with place.open().lease_reader(ref, ttl=ttl) as lease:
        lease.keep()
        holding.set()
        time.sleep(60)
