"""A small dataset, its configuration, and training runs that leave real logs and markers in its store."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from foreshard.access.log import AccessLogWriter
from foreshard.access.markers import EpochMarker, register_run, write_marker
from foreshard.chain import Chain, StageResult
from foreshard.config import load_config
from foreshard.splits import split_code

ROWS = 2400
EVERY = 2
RANKS = 2
STEPS = 32
BATCH = 32


def write_source(folder: Path, rows: int = ROWS) -> None:
    """Two files of rows with numbers, a category and a class that depends on them."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(rows, 3))
    table = pa.table(
        {
            "x0": x[:, 0],
            "x1": x[:, 0] * 0.8 + x[:, 1] * 0.2,
            "x2": x[:, 2].astype(np.float32),
            "kind": pa.array(rng.choice(["a", "b", "c"], rows)),
            "late": (x[:, 0] + 0.5 * x[:, 2] + rng.normal(size=rows) * 0.3 > 0.4),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, rows, rows // 2)):
        pq.write_table(table.slice(start, rows // 2), folder / f"part-{number}.parquet", row_group_size=500)


def settings() -> dict:
    """What `foreshard.yaml` holds."""
    return {
        "dataset": {"name": "flights", "source": {"url": "file:source"}, "target": "late", "seed": 5},
        "store": {"url": "file:store"},
        "cluster": {"nodes": [{"name": f"node{i}", "memory": 10_000_000} for i in range(2)]},
        "loader": {"global_batch": BATCH, "cache_fraction": 0.2, "phases": 2},
        "reshard": {"every": EVERY, "min_chunk_rows": 16, "max_chunk_rows": 256, "hysteresis": 0.0},
    }


def make_world(folder: Path, **changes: dict) -> Path:
    """Write source and configuration below a folder and return the configuration's path."""
    write_source(folder / "source")
    return write_config(folder, **changes)


def write_config(folder: Path, **changes: dict) -> Path:
    """Write the configuration with some sections changed."""
    raw = settings()
    for section, values in changes.items():
        raw[section] = {**raw[section], **values}
    path = folder / "foreshard.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def open_chain(path: Path) -> Chain:
    """Return the chain of a configuration, as a new process would open it."""
    return Chain(load_config(path))


_measured: dict[str, bytes] = {}


def prepared_chain(path: Path) -> Chain:
    """Return a chain after `prepare`; trials of the same snapshot are measured once in this process."""
    chain = open_chain(path)
    prefix = f"{chain.keys.dataset}/consistency/"
    for key, raw in _measured.items():
        chain.store.put(key, raw)
    chain.prepare()
    for meta in chain.store.list(prefix):
        if meta.key.endswith("trials.parquet"):
            _measured[meta.key] = chain.store.get(meta.key)
    return chain


def train_epoch(chain: Chain, epoch: int, run: str = "demo") -> EpochMarker:
    """Draw samples, a twentieth of them sixty times as often as the rest, log what the layout gave, mark the epoch."""
    manifest = chain.repository.open()
    train = np.flatnonzero(manifest.splits[manifest.chunk_of] == split_code("train"))
    weights = np.where(train % 20 == 3, 60.0, 1.0)
    rng = np.random.default_rng([3, epoch])
    common = {"run": run, "epoch": epoch, "generation": manifest.header.generation, "write_id": f"w{epoch}"}
    writers = [
        AccessLogWriter(chain.store, chain.keys, rank=rank, steps=STEPS, phases=2, **common) for rank in range(RANKS)
    ]
    for step in range(STEPS):
        drawn = rng.choice(train, BATCH, p=weights / weights.sum())
        for writer, mine in zip(writers, np.array_split(drawn, RANKS), strict=True):
            chunks = np.unique(manifest.chunk_of[mine])
            hit = rng.random(len(chunks)) < 0.2
            nbytes = manifest.nbytes[chunks].astype(np.int32)
            fetch = np.where(hit, 0, 50 + nbytes).astype(np.int32)
            writer.touches(step, chunks, hit, nbytes, fetch // 2, fetch)
            writer.samples(step, mine)
    logs = tuple(log for writer in writers for log in writer.close())
    digest = manifest.header.plan_digest
    return write_marker(
        chain.store,
        chain.keys,
        EpochMarker(run, epoch, manifest.header.generation, digest, RANKS, STEPS, 2, f"w{epoch}", logs, STEPS * BATCH),
    )


@dataclass(frozen=True)
class Trained:
    """A world after its first layout, one window of epochs and a re-shard, with the reports of all stages."""

    path: Path
    prepared: dict[str, StageResult]
    first: dict[str, StageResult]
    second: dict[str, StageResult]


FIRST, SECOND = "demo.e000000", f"demo.e{EVERY:06d}"

_trained: list[Trained] = []


def trained_world(factory: pytest.TempPathFactory) -> Trained:
    """Return the trained world of this process; its tests leave it as it is, or work on `copy_of` it."""
    if not _trained:
        path = make_world(factory.mktemp("trained"))
        prepared_chain(path)
        chain = open_chain(path)
        register(chain)
        prepared = chain.prepare()
        first = chain.reshard(FIRST)
        for epoch in range(1, EVERY + 1):
            train_epoch(chain, epoch)
        _trained.append(Trained(path, prepared, first, chain.reshard(SECOND)))
    return _trained[0]


def copy_of(trained: Trained, folder: Path) -> Chain:
    """Return the chain of a copy of a world, to be damaged."""
    shutil.copytree(trained.path.parent, folder, dirs_exist_ok=True)
    return open_chain(folder / trained.path.name)


def register(chain: Chain, run: str = "demo") -> None:
    register_run(chain.store, chain.keys, run, info={})
