"""Trials: the measured history of what strategies do to consistency, from which the predictor learns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.consistency.inputs import FEATURES, training_features
from foreshard.consistency.learners import get_learner
from foreshard.consistency.measure import measure, probe
from foreshard.consistency.metafeatures import metafeatures
from foreshard.consistency.partition import partition_sketch
from foreshard.consistency.sampling import split_holdout, spread_sample
from foreshard.consistency.tasks import TrialTask
from foreshard.errors import ConfigError
from foreshard.seeding import derive_seed, row_keys
from foreshard.strategies import Arrangement, Strategy, StrategyInput, partition

MEASURES: Final = ("c_node", "c_seed", "c_all", "c_eval")
TRIAL_SCHEMA: Final = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("strategy", pa.string(), nullable=False),
        pa.field("learner", pa.string(), nullable=False),
        pa.field("seeds", pa.int32(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        *(pa.field(name, pa.float64(), nullable=False) for name in (*FEATURES, *MEASURES)),
    ]
)
"""One row per (task, strategy, learner): the predictor's inputs (`nodes` among them) and the measured consistency."""

_CHUNKS_PER_NODE: Final = 8
_MIN_ROWS_PER_NODE: Final = 8


def label_sorted(data: StrategyInput) -> Arrangement:
    """Give each node a stretch of the rows sorted by label: about the worst partition there is."""
    order = np.lexsort((row_keys(data.seed, data.sample_ids), data.labels)).astype(np.int64)
    return Arrangement(order, np.zeros(data.rows, np.int32), "contiguous")


def label_skewed(data: StrategyInput) -> Arrangement:
    """Place half of the rows at random and half sorted by label: a partition between the extremes."""
    keys = row_keys(data.seed, data.sample_ids)
    place = np.argsort(np.lexsort((keys, data.labels)), kind="stable")
    random = (keys & np.uint64(1)).astype(bool)
    place[random] = (keys[random] >> np.uint64(1)) % np.uint64(max(1, data.rows))
    return Arrangement(np.lexsort((keys, place)).astype(np.int64), np.zeros(data.rows, np.int32), "contiguous")


REFERENCES: Final[dict[str, Strategy]] = {"label_sorted": label_sorted, "label_skewed": label_skewed}
"""Bad partitions that trials measure too: without them the predictor would not know the low end of the scale."""


def run_trials(
    tasks: Sequence[TrialTask],
    strategies: Mapping[str, Strategy],
    *,
    learners: Sequence[str],
    nodes: int,
    seeds: int,
    rows: int,
    progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Measure every (task, strategy, learner) by training on each node's part under several seeds.

    A third of each task is held out for comparing models. The `REFERENCES` are measured beside the given strategies.

    Args:
        tasks: distinct names.
        strategies: by name.
        learners: names in `LEARNERS`.
        nodes: nodes to partition for.
        seeds: partitions and trainings per case, at least 2.
        rows: most training rows per task; larger tasks are sampled.
        progress: called with (cases done, cases in all).

    Returns:
        A table of `TRIAL_SCHEMA`.

    Raises:
        ConfigError: nothing to try, an unknown learner, repeated task names, fewer than 2 seeds, or a task with fewer
            than 8 training rows per node.
    """
    names = [task.name for task in tasks]
    if not tasks or not strategies or not learners:
        raise ConfigError(f"trials need tasks, strategies and learners; got {names}, {list(strategies)}, {learners}")
    if len(set(names)) != len(names):
        raise ConfigError(f"task names {names} are not distinct")
    if seeds < 2 or nodes < 1:  # noqa: PLR2004 - consistency compares
        raise ConfigError(f"trials need seeds >= 2 and nodes >= 1; got seeds {seeds} and nodes {nodes}")
    for learner in learners:
        get_learner(learner)
    tried = {**REFERENCES, **strategies}
    total = len(tasks) * len(tried)
    records: list[dict[str, object]] = []
    for number, task in enumerate(tasks):
        case = _Case(task, nodes, seeds, rows, learners)
        for index, (name, strategy) in enumerate(tried.items()):
            records += case.run(name, strategy)
            if progress is not None:
                progress(number * len(tried) + index + 1, total)
    return pa.Table.from_pylist(records, schema=TRIAL_SCHEMA)


class _Case:
    """One task prepared for all its trials: training rows, hold-out, meta-features and probes."""

    def __init__(self, task: TrialTask, nodes: int, seeds: int, rows: int, learners: Sequence[str]) -> None:
        self.task, self.nodes, self.seeds, self.learners = task, nodes, seeds, learners
        self.rows, held = training_split(len(task.labels), rows, derive_seed(purpose="trial rows"))
        if len(self.rows) < nodes * _MIN_ROWS_PER_NODE:
            raise ConfigError(
                f"task {task.name!r} has {len(self.rows)} training rows for {nodes} nodes; "
                f"it needs {nodes * _MIN_ROWS_PER_NODE}, use a larger task or fewer nodes"
            )
        self.features, self.labels = task.features[self.rows], task.labels[self.rows]
        self.holdout = (task.features[held], task.labels[held])
        self.heat = loss_heat(self.features, self.labels)
        self.meta = metafeatures(task.features, task.labels)
        self.probes = {name: probe(self.features, self.labels, nodes, name, self.holdout) for name in learners}

    def run(self, name: str, strategy: Strategy) -> list[dict[str, object]]:
        chunk_rows = max(1, len(self.rows) // (self.nodes * _CHUNKS_PER_NODE))
        partitions: list[NDArray[np.int32]] = []
        for replicate in range(self.seeds):
            seed = derive_seed(purpose="trial", task=self.task.name, strategy=name, replicate=replicate)
            data = StrategyInput(self.rows, self.labels, self.features, self.heat, seed)
            partitions.append(partition(strategy, data, self.nodes, chunk_rows))
        sketch = mean_sketch([partition_sketch(self.features, self.labels, p, self.nodes) for p in partitions])
        records: list[dict[str, object]] = []
        for learner in self.learners:
            found = measure(self.features, self.labels, partitions, self.nodes, learner, self.holdout)
            inputs = {
                **self.meta,
                **training_features(learner, self.meta, len(self.rows), self.nodes),
                **sketch,
                **self.probes[learner],
            }
            identity = {"task": self.task.name, "strategy": name, "learner": learner}
            measured = {"c_node": found.node, "c_seed": found.seed, "c_all": found.all, "c_eval": found.eval}
            records.append({**identity, "seeds": self.seeds, "rows": len(self.rows), **inputs, **measured})
        return records


def training_split(n: int, rows: int, seed: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ascending positions of at most `rows` training rows, and half as many for the hold-out."""
    sample = spread_sample(n, rows + rows // 2, derive_seed(purpose="sample", seed=seed))
    train, held = split_holdout(len(sample), derive_seed(purpose="hold-out", seed=seed))
    return sample[train], sample[held]


def mean_sketch(sketches: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of several sketches, figure by figure."""
    return {name: float(np.mean([sketch[name] for sketch in sketches])) for name in sketches[0]}


def loss_heat(features: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return heat as loss-based importance sampling would give it: the loss of a nearest-centroid model.

    Returns:
        Shape (m,), positive, mean 1: one epoch of m draws.
    """
    values = features.astype(np.float64)
    codes = np.unique(labels, return_inverse=True)[1]
    centres = np.stack([values[codes == code].mean(axis=0) for code in range(int(codes.max()) + 1)])
    logits = -((values[:, None, :] - centres[None]) ** 2).sum(axis=2) / 2
    peak = logits.max(axis=1, keepdims=True)
    log_sum = peak[:, 0] + np.log(np.exp(logits - peak).sum(axis=1))
    loss = log_sum - logits[np.arange(len(codes)), codes] + 0.1  # samples learnt already are still drawn at times
    return (loss / loss.mean()).astype(np.float32)
