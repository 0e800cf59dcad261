"""A small training job that logs what it reads, for the tests of the access package."""

from dataclasses import replace

import numpy as np

from foreshard.access.log import AccessLogWriter
from foreshard.access.markers import EpochMarker
from foreshard.keys import DatasetKeys
from foreshard.storage import ObjectStore

KEYS = DatasetKeys("flights")
RUN = "demo"
GENERATION = "demo.e000000"
STEPS, PHASES, RANKS = 12, 3, 2
SAMPLES, CHUNKS = 200, 10
CHUNK_OF = (np.arange(SAMPLES) * CHUNKS // SAMPLES).astype(np.int32)


def batches(epoch, rank):
    """What a rank draws at each step: with replacement, hot samples first, the same on every call."""
    rng = np.random.default_rng([epoch, rank])
    weights = 1.0 / np.arange(1, SAMPLES + 1)
    return [rng.choice(SAMPLES, 16, p=weights / weights.sum()) for _ in range(STEPS)]


def open_writer(store, epoch=1, rank=0, write_id="first", **changes):
    return AccessLogWriter(
        store,
        KEYS,
        **{
            "run": RUN,
            "epoch": epoch,
            "rank": rank,
            "generation": GENERATION,
            "write_id": write_id,
            "steps": STEPS,
            "phases": PHASES,
            **changes,
        },
    )


def record(writer, step, ids):
    chunks = np.unique(CHUNK_OF[ids])
    hit = chunks < 3
    fetch = np.where(hit, 0, 900 + chunks).astype(np.int32)
    writer.touches(step, chunks, hit, (chunks + 1) * 1000, fetch // 2, fetch)
    writer.samples(step, ids)


def train(store, epoch, *, skip=(), ranks=RANKS, write_id="first", steps=range(STEPS)):
    """Log one epoch and return its marker, not yet written."""
    logs = []
    for rank in range(ranks):
        writer = open_writer(store, epoch, rank, write_id)
        for step, ids in enumerate(batches(epoch, rank)):
            if step in steps and (rank, step) not in skip:
                record(writer, step, ids)
        logs += writer.close()
    draws = ranks * STEPS * 16
    return EpochMarker(RUN, epoch, GENERATION, "ab" * 16, ranks, STEPS, PHASES, write_id, tuple(logs), draws)


def mark(store, marker):
    store.create(KEYS.marker(marker.run, marker.epoch), marker.to_json().encode())


def relist(marker, index, **changes):
    """Return the marker with one log entry changed."""
    logs = list(marker.logs)
    logs[index] = replace(logs[index], **changes)
    return replace(marker, logs=tuple(logs))


def new_store():
    return ObjectStore.open("memory://")
