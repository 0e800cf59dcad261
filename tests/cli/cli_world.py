"""What the tests of the command line share: a store with three layouts, and ways to call it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from typer.testing import CliRunner, Result

sys.path.append(str(Path(__file__).parents[1] / "shards"))
from shardkit import World, build_plan, sample_table, successor, write_source

from foreshard.cli.app import app
from foreshard.keys import LayoutRef
from foreshard.shards.assemble import Figures
from foreshard.storage import ObjectStore

ROOT = Path(__file__).parents[2]
ROWS = 300
FIRST, SECOND = "demo.e000000", "demo.e000004"


@dataclass
class Place:
    """A published store and what is in it.

    Attributes:
        world: source and repository.
        options: name the store on the command line.
        first: published before `second`, on other nodes.
        second: the current one.
        rival: another layout of the second generation, never published.
    """

    world: World
    options: list[str]
    first: LayoutRef
    second: LayoutRef
    rival: LayoutRef

    def run(self, *arguments: str) -> Result:
        """Run a command on the store; a traceback of ours fails the test."""
        return run(*arguments, *self.options)

    def json(self, *arguments: str):
        """Run a command that prints JSON and return that."""
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def start(self, *arguments: str, **options) -> subprocess.Popen[str]:
        return start(*arguments, *self.options, **options)

    def damage(self, key: str) -> None:
        """Change a byte in the middle of an object, whatever the store."""
        raw = bytearray(self.world.store.get(key))
        raw[len(raw) // 2] ^= 0x10
        self.world.store.put(key, bytes(raw))

    @property
    def repository(self):
        return self.world.repository


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    assert "Traceback" not in result.output
    return result


def start(*arguments: str, **options) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "foreshard.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def make_place(folder: Path, url: str | None = None, endpoint: str | None = None, rows: int = ROWS) -> Place:
    """Make a source on disk, a store there or elsewhere, and three layouts."""
    snapshot = write_source(folder / "source", sample_table(rows), files=2)
    url = url or (folder / "store").as_uri()
    world = World(folder, snapshot, ObjectStore.open(url, endpoint=endpoint))
    first = build_plan(snapshot, nodes=3)
    world.make(first)
    world.repository.publish(first.ref)
    second = replace(successor(first, SECOND, share=0.2), nodes=("node-0", "node-1", "gpu-2"))
    counts = np.arange(second.chunks.num_rows, dtype=np.float64)
    world.repository.make(second, world.reader(), figures=Figures(counts, (counts / 100).astype(np.float32)))
    world.repository.publish(second.ref)
    rival = build_plan(snapshot, generation=SECOND, order_seed=9)
    world.make(rival)
    options = ["--store", url, "--dataset", "data", *(["--endpoint", endpoint] if endpoint else [])]
    return Place(world, options, first.ref, second.ref, rival.ref)


def write_config(folder: Path, place: Place, **changes: dict) -> Path:
    """Write a configuration for a place's store; `changes` replace sections."""
    url = place.world.store.url
    raw = {
        "dataset": {"name": "data", "source": {"url": (place.world.folder / "source").as_uri()}, "target": "label"},
        "store": {"url": url},
        "cluster": {"nodes": [{"name": "node-0", "memory": 1_000_000}]},
        **changes,
    }
    path = folder / "foreshard.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path
