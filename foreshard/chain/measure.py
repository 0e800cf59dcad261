"""Stages that learn what partitioning does to consistency: measured trials, and a predictor trained on them."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Final, cast

from foreshard.chain.context import Context
from foreshard.chain.result import Scalar, StageResult, digest_of, head
from foreshard.chain.work import decode_table, encode_json, encode_table
from foreshard.consistency.predictor import Predictor, fit_predictor
from foreshard.consistency.tasks import TrialTask, bundled_tasks, subsample_tasks
from foreshard.consistency.trials import run_trials
from foreshard.errors import ObjectNotFoundError, StorageError
from foreshard.splits import split_code
from foreshard.strategies import get_strategies

LEARNERS: Final = ("logistic", "tree")
SEEDS: Final = 3
ROWS: Final = 1500
"""Rows of one trial: enough for small models to disagree, few enough to train hundreds of them in seconds."""
SUBSAMPLES: Final = 2
"""Samples of the user's own training rows that take part beside the bundled tasks."""


def trials_digest(context: Context, fingerprint: str) -> str:
    """Return the digest that names what is measured and how."""
    settings = {
        "fingerprint": fingerprint,
        "features": context.config.dataset.features,
        "target": context.config.dataset.target,
        "strategies": sorted(get_strategies()),
        "learners": LEARNERS,
        "nodes": _nodes(context),
        "seeds": SEEDS,
        "rows": ROWS,
        "subsamples": SUBSAMPLES,
        "scikit-learn": version("scikit-learn"),
        "numpy": version("numpy"),
    }
    return digest_of(encode_json(settings))


def trials_stage(context: Context, progress: Callable[[int, int], None] | None = None) -> StageResult:
    """Train small models on each node's part under several seeds, for each strategy, and measure how they agree.

    What was measured before for the same snapshot, settings and library versions is not measured again.
    """
    fingerprint = context.snapshot.fingerprint
    key = context.keys.trials(trials_digest(context, fingerprint))
    fresh = not context.store.exists(key)
    if fresh:
        tasks = [*bundled_tasks(), *_own_tasks(context, fingerprint)]
        table = run_trials(
            tasks,
            get_strategies(),
            learners=LEARNERS,
            nodes=_nodes(context),
            seeds=SEEDS,
            rows=ROWS,
            progress=progress,
        )
        context.store.put(key, encode_table(table))
    raw = context.store.get(key)
    table = decode_table(raw, key)
    return StageResult(
        data_version=digest_of(raw),
        metadata={"trials": table.num_rows, "tasks": len(set(table.column("task").to_pylist())), "measured_now": fresh},
        tables={"trials": head(table)},
    )


def predictor_stage(context: Context) -> StageResult:
    """Train the predictor on the measured trials and write its card: data, cross-validated error, versions."""
    fingerprint = context.snapshot.fingerprint
    predictor = load_predictor(context, fingerprint)
    raw = encode_json(predictor.card())
    context.store.put(context.keys.predictor(trials_digest(context, fingerprint)), raw)
    return StageResult(data_version=digest_of(raw), metadata=flat_scalars(predictor.card()))


def flat_scalars(card: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Return the scalars of nested mappings under dotted names; lists are left to the card itself."""
    found: dict[str, Scalar] = {}
    for key, value in card.items():
        if isinstance(value, str | int | float):
            found[prefix + key] = value
        elif isinstance(value, Mapping):
            found |= flat_scalars(cast("Mapping[str, Any]", value), f"{prefix}{key}.")
    return found


def load_predictor(context: Context, fingerprint: str) -> Predictor:
    """Return the predictor of a snapshot, refitted from its trials: nothing is pickled.

    Raises:
        StorageError: the trials were not measured yet.
    """
    key = context.keys.trials(trials_digest(context, fingerprint))
    try:
        table = decode_table(context.store.get(key), key)
    except ObjectNotFoundError as error:
        raise StorageError(
            f"{key!r} is missing in {context.store.url}; materialise consistency/trials for snapshot "
            f"{fingerprint} first"
        ) from error
    return fit_predictor(table)


def _nodes(context: Context) -> int:
    # A partition needs two parts to be compared with anything.
    return max(2, len(context.config.cluster.nodes))


def _own_tasks(context: Context, fingerprint: str) -> list[TrialTask]:
    sketch = context.sketch(fingerprint)
    train = context.repository.load_splits(fingerprint) == split_code("train")
    # A trial holds out a third of a task's rows.
    rows = ROWS * 3 // 2
    name = f"user-{context.config.dataset.name}"
    return subsample_tasks(name, sketch.features[train], sketch.labels[train], count=SUBSAMPLES, rows=rows)
