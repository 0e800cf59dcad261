"""Weighted training before and after re-sharding: bytes from the object store and seconds waited, after over before.

Flights and MNIST images are trained on by importance sampling: each epoch draws samples, with replacement, in
proportion to a weight, which is the loss of a linear classifier after one pass (Katharopoulos and Fleuret, ICML 2018);
a quarter as many as there are. Before is a layout in the source's order. After is the one that foreshard's own chain
makes from the access logs of four such epochs: one draw a sample. Both are then read from an S3 server (SeaweedFS) by
loaders with the same options and memory for a tenth of the data, the same later epochs in turn, by a loop that learns
from every batch. That it sees the same samples and makes the same model is asserted. Without skew all weights are
equal: there is nothing to gain, and the planner should say so and leave the layout as it is.
"""

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import harness
from benchmarks.harness import Figure
from benchmarks.learning import Learner, Task, flights, pictures
from foreshard import Loader, LoaderOptions, Logging, WeightedOrder, mark_epoch, read_split
from foreshard.chain import Chain
from foreshard.config import ForeshardConfig
from foreshard.keys import LayoutRef
from foreshard.prefetch.monitor import EpochStats
from foreshard.splits import split_code

STRATEGY: Final = "contiguous"
"""Of the layout before: samples lie as they come in the source."""

LOGGED: Final = 4
"""Epochs whose access logs the new layout is planned from."""

MEMORY: Final = 0.1
"""The loader's memory for chunks as a share of the training data."""

DRAWS: Final = 0.25
"""Samples drawn in an epoch as a share of the training data."""

BATCH: Final = 256

_FLOOR: Final = 1e-3
_MOST: Final = 10.0
_RUN: Final = "bench"


@dataclass
class Arm:
    """Training on one of the two layouts.

    Attributes:
        loader: reads the layout.
        learner: what is trained.
        stream: hash of all sample ids, in order.
        stats: of each epoch.
    """

    loader: Loader
    learner: Learner
    stream: Any = field(default_factory=hashlib.sha256)
    stats: list[EpochStats] = field(default_factory=list)

    def epoch(self) -> float:
        """Train for an epoch and return the seconds waited for batches, planning included."""
        order: Any = self.loader.order
        for batch in self.loader:
            self.stream.update(batch.sample_ids.tobytes())
            chances = order.probabilities(batch.sample_ids) * len(order.weights)
            self.learner.learn(batch, np.minimum(1 / chances, _MOST))
        assert self.loader.last_epoch is not None
        stats = self.loader.last_epoch.stats
        self.stats.append(stats)
        return stats.wait_s + stats.plan_s


@dataclass(frozen=True)
class Gain:
    """What re-sharding gained.

    Attributes:
        wait: seconds waited, after over before.
        nbytes: bytes from the object store, after over before.
        figures: what the table and the JSON say beside them.
    """

    wait: harness.Ratio
    nbytes: harness.Ratio
    figures: dict[str, Any]


class Study:
    """Lays a task's data out as they come, to be re-sharded after some training; then measures both layouts.

    Args:
        task: the dataset.
        skewed: whether samples are drawn by their losses, or all alike.
        url: an empty place in a store.
        endpoint: of its S3 server, if any.
    """

    def __init__(self, task: Task, *, skewed: bool, url: str, endpoint: str | None = None) -> None:
        self._task = task
        self._chain = Chain(_config(task, url, endpoint, (STRATEGY,)))
        self._chain.prepare()
        self._chain.reshard(f"{_RUN}.e{0:06d}")
        self._repository = self._chain.repository
        (self.before,) = self._repository.layouts(f"{_RUN}.e{0:06d}")
        manifest = self._repository.open(self.before)
        self._memory = int(MEMORY * manifest.nbytes[manifest.splits == split_code("train")].sum())
        splits = self._repository.load_splits(self._chain.snapshot().fingerprint)
        self._population = np.flatnonzero(splits == split_code("train")).astype(np.int64)
        self._weights = self._importance() if skewed else np.ones(len(self._population))
        self._after = Chain(_config(task, url, endpoint, ()), self._chain.store)

    def _importance(self) -> NDArray[np.float64]:
        """Return the loss of every training sample after one pass over all."""
        table = read_split(self._repository, self._repository.open(self.before), "train", self._task.columns)
        rows = {name: table.column(name).to_numpy() for name in self._task.columns}
        learner = Learner(self._task)
        shuffled = np.random.default_rng(3).permutation(len(table))
        for start in range(0, len(table), BATCH):
            batch = shuffled[start : start + BATCH]
            learner.learn({name: column[batch] for name, column in rows.items()})
        return np.maximum(learner.losses(rows), _FLOOR)

    def _order(self) -> WeightedOrder:
        order = WeightedOrder(self._population, 7, draws=int(DRAWS * len(self._population)))
        order.update_weights(self._population, self._weights)
        return order

    def _loader(self, layout: LayoutRef, logging: Logging | None = None) -> Loader:
        options = LoaderOptions(BATCH, columns=self._task.columns, memory=self._memory, logging=logging)
        return Loader(self._repository, self._order(), options, layout=layout)

    def reshard(self) -> dict[str, Any]:
        """Train with access logs, let the chain plan and make the next layout, and say what it decided."""
        logging = Logging(_RUN, "w0")
        arm = Arm(self._loader(self.before, logging), Learner(self._task))
        for _ in range(LOGGED):
            arm.epoch()
            assert arm.loader.last_epoch is not None
            mark_epoch(self._repository, logging, [arm.loader.last_epoch])
        arm.loader.close()
        generation = f"{_RUN}.e{LOGGED:06d}"
        decided = self._after.reshard(generation)["plan"].metadata
        (self.after,) = self._repository.layouts(generation)
        hottest = np.sort(self._weights)[::-1][: len(self._weights) // 10].sum() / self._weights.sum()
        return {
            "decision": decided["decision"],
            "strategy": decided["strategy"],
            "reason": decided["reason"],
            "draws_of_top_tenth": round(float(hottest), 3),
        }

    def measure(self, rounds: int = harness.ROUNDS) -> Gain:
        """Re-shard, then train on both layouts in turn, an epoch each, and compare."""
        figures = self.reshard()
        layouts = {"before": self.before, "after": self.after}
        arms = {name: Arm(self._loader(ref), Learner(self._task)) for name, ref in layouts.items()}
        for arm in arms.values():
            arm.loader.set_epoch(LOGGED + 1)
        waits = harness.interleave({name: arm.epoch for name, arm in arms.items()}, rounds)
        before, after = arms["before"], arms["after"]
        same = (before.stream.digest(), before.learner.digest()) == (after.stream.digest(), after.learner.digest())
        assert same, "the training saw other samples after re-sharding, or made another model of them"
        nbytes = {name: [s.origin_bytes for s in arm.stats[1:]] for name, arm in arms.items()}
        for name, arm in arms.items():
            arm.loader.close()
            figures |= {
                f"{name}_mb": round(statistics.median(nbytes[name]) / 1e6, 2),
                f"{name}_wait_s": round(statistics.median(waits[name]), 3),
                f"{name}_requests": statistics.median(s.origin_requests for s in arm.stats[1:]),
            }
        return Gain(
            harness.ratio(waits["after"], waits["before"]), harness.ratio(nbytes["after"], nbytes["before"]), figures
        )


def _config(task: Task, url: str, endpoint: str | None, strategies: tuple[str, ...]) -> ForeshardConfig:
    return ForeshardConfig.model_validate(
        {
            "dataset": {
                "name": task.name,
                "source": {"url": task.source.as_uri()},
                "target": task.target,
                "features": task.features,
                "seed": 20131,
            },
            "store": {"url": url, "endpoint": endpoint},
            "cluster": {"nodes": [{"name": "node0", "memory": 1 << 30}]},
            "loader": {"global_batch": BATCH, "cache_fraction": MEMORY},
            "reshard": {
                "every": LOGGED,
                "horizon": LOGGED,
                "strategies": strategies,
                "chunk_overhead": 0.000002,
                "min_chunk_rows": 32,
                "max_chunk_rows": 512,
            },
        }
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = harness.parse_options("reshard_gain", str(__doc__).splitlines()[0], arguments)
    harness.print_environment()
    gains: dict[str, Gain] = {}
    with harness.s3_server("seaweedfs") as server:
        for task in (flights(12_000), pictures(6_000)) if options.quick else (flights(40_000), pictures(40_000)):
            for name, skewed in (("skew", True), ("even", False)):
                url = f"s3://{server.create_bucket()}/data"
                study = Study(task, skewed=skewed, url=url, endpoint=server.endpoint)
                gains[f"{task.name}_{name}"] = study.measure(1 if options.quick else harness.ROUNDS)
    _print(gains)
    skewed_gains = [gain for name, gain in gains.items() if name.endswith("skew")]
    figures = [
        Figure("origin_bytes_ratio", max(gain.nbytes.median for gain in skewed_gains), 0.7, at_least=False),
        Figure("wait_ratio", max(gain.wait.median for gain in skewed_gains), 0.9, at_least=False),
    ]
    details: dict[str, Any] = {}
    for name, gain in gains.items():
        details[f"{name}_origin_bytes_ratio"] = round(gain.nbytes.median, 4)
        details[f"{name}_wait_ratio"] = round(gain.wait.median, 4)
        details |= {f"{name}_{figure}": value for figure, value in gain.figures.items()}
    harness.finish(options, figures, details)


def _print(gains: Mapping[str, Gain]) -> None:
    rows = [
        (
            name,
            f"{gain.figures['draws_of_top_tenth']:.0%}",
            f"{gain.figures['decision']} ({gain.figures['strategy']})",
            *(f"{gain.figures[f'before_{key}']:g} | {gain.figures[f'after_{key}']:g}" for key in ("mb", "wait_s")),
            gain.nbytes,
            gain.wait,
        )
        for name, gain in gains.items()
    ]
    columns = ("weights", "top tenth", "plan", "MB", "waited, s", "bytes ratio", "wait ratio")
    harness.print_table("an epoch, before | after; draws of the tenth with the largest weights", columns, rows)
    for name, gain in gains.items():
        harness.console.print(f"{name}: {gain.figures['reason']}", style="dim")


if __name__ == "__main__":
    main()
