"""The training job: importance sampling on four simulated nodes, one loader each, with a checkpoint per epoch."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from examples.flights.model import COLUMNS, Classifier, features, labels
from foreshard.config import ForeshardConfig
from foreshard.keys import LayoutRef
from foreshard.loader.batch import Batch
from foreshard.loader.dealing import Place, epoch_steps
from foreshard.loader.epochs import mark_epoch
from foreshard.loader.loader import Loader
from foreshard.loader.options import LoaderOptions, Logging
from foreshard.loader.order import BlockShuffleOrder, WeightedOrder
from foreshard.loader.reading import read_split
from foreshard.prefetch.monitor import EpochStats
from foreshard.shards.repository import Repository
from foreshard.splits import split_code

_FLOOR = 1e-3
"""Smallest sampling weight: no sample is ever lost from sight."""


@dataclass
class Progress:
    """One arm's state between epochs: what a checkpoint holds beside the model and the weights.

    Attributes:
        epochs: epochs finished.
        order_digest: SHA-256 chained over every batch's sample ids: the order that the training saw.
        rows: one dict of figures per epoch, for the report.
        touched: per epoch, the steps that touched each train chunk of the layout read.
    """

    epochs: int = 0
    order_digest: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    touched: list[list[int]] = field(default_factory=list)


class TrainingJob:
    """Trains one arm of the comparison.

    Args:
        config: the configuration.
        repository: the dataset's repository.
        layout_of: returns the layout to read in an epoch; may wait for it.
        folder: where checkpoints go.
        logging: where to report accesses, None for the control arm.
        draws: samples drawn per epoch after the first, which is one full pass.
    """

    def __init__(
        self,
        config: ForeshardConfig,
        repository: Repository,
        layout_of: Callable[[int], LayoutRef],
        folder: Path,
        *,
        logging: Logging | None,
        draws: int,
    ) -> None:
        self._config, self._repository, self._layout_of = config, repository, layout_of
        self._checkpoint = folder / "checkpoint.npz"
        self._logging = logging
        self.model = Classifier()
        self.progress = Progress()
        layout = layout_of(1)
        manifest = repository.open(layout)
        splits = repository.load_splits(manifest.header.fingerprint)
        population = np.flatnonzero(splits == split_code("train")).astype(np.int64)
        seed = config.dataset.seed
        first = BlockShuffleOrder(population, seed, block=1024, window=4)
        self.order = WeightedOrder(population, seed, draws=draws, first_pass=first)
        self._losses = np.full(len(population), np.log(2))
        self._population = population
        validation = read_split(repository, manifest, "validation", COLUMNS)
        rows = {name: validation.column(name).to_numpy() for name in COLUMNS}
        self._validation = features(rows), labels(rows)
        self._restore()

    def steps(self, epoch: int) -> int:
        """Return the number of steps of an epoch."""
        return epoch_steps(self.order.length(epoch), self._config.loader.global_batch, "drop")

    def train(self, epochs: int, on_step: Callable[[int], None], on_epoch: Callable[[dict[str, Any]], None]) -> None:
        """Train up to and including epoch `epochs`, from the last checkpoint on."""
        start = self.progress.epochs + 1
        if start > epochs:
            return
        loaders = self._loaders(self._layout_of(start))
        try:
            for epoch in range(start, epochs + 1):
                self._train_epoch(epoch, loaders, on_step)
                on_epoch(self.progress.rows[-1])
        finally:
            for loader in loaders:
                loader.close()

    def _loaders(self, layout: LayoutRef) -> list[Loader]:
        world, settings = len(self._config.cluster.nodes), self._config.loader
        return [
            Loader(
                self._repository,
                self.order,
                LoaderOptions(
                    global_batch=settings.global_batch,
                    place=Place(rank, world),
                    dealing="owner",
                    columns=COLUMNS,
                    cache_fraction=settings.cache_fraction,
                    queue_batches=settings.queue_batches,
                    max_concurrency=settings.concurrency,
                    timeout=settings.timeout,
                    logging=self._logging,
                ),
                layout=layout,
            )
            for rank in range(world)
        ]

    def _train_epoch(self, epoch: int, loaders: Sequence[Loader], on_step: Callable[[int], None]) -> None:
        layout = self._layout_of(epoch)
        for loader in loaders:
            loader.refresh(layout)
            loader.set_epoch(epoch)
        digest = hashlib.sha256(self.progress.order_digest.encode())
        touched = np.zeros(len(loaders[0].manifest), np.int64)
        for parts in zip(*loaders, strict=True):
            rows, ids = _merge(parts)
            digest.update(ids.tobytes())
            self._learn(epoch, rows, ids)
            touched[np.unique(loaders[0].manifest.chunk_of[ids])] += 1
            on_step(epoch)
        self.order.update_weights(self._population, np.maximum(self._losses, _FLOOR))
        reports = [loader.last_epoch for loader in loaders if loader.last_epoch is not None]
        if self._logging is not None:
            mark_epoch(self._repository, self._logging, reports)
        stats = sum((r.stats for r in reports), EpochStats(epoch))
        auc = self.model.auc(*self._validation)
        self.progress.rows.append(
            {"generation": str(layout.generation), "auc": auc, "loaders": len(loaders), **stats.figures()}
        )
        train = loaders[0].manifest.splits == split_code("train")
        self.progress.touched.append(touched[train].tolist())
        self.progress.epochs, self.progress.order_digest = epoch, digest.hexdigest()
        self._save()

    def _learn(self, epoch: int, rows: dict[str, Any], ids: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        x, y = features(rows), labels(rows)
        full_pass = epoch == 1
        chances = None if full_pass else self.order.probabilities(ids) * len(self._population)
        self._losses[np.searchsorted(self._population, ids)] = self.model.learn(x, y, chances)

    # -- checkpoints ----------------------------------------------------------------------------------
    def model_digest(self) -> str:
        """Return the SHA-256 of the model's parameters, bit for bit."""
        state = self.model.state()
        return hashlib.sha256(b"".join(state[name].tobytes() for name in sorted(state))).hexdigest()

    def _save(self) -> None:
        meta = json.dumps(self.progress.__dict__)
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self._checkpoint.with_name(f"partial-{os.getpid()}.npz")
        np.savez(partial, losses=self._losses, meta=np.array(meta), **self.model.state())
        partial.replace(self._checkpoint)

    def _restore(self) -> None:
        if not self._checkpoint.exists():
            return
        with np.load(self._checkpoint) as saved:
            self.progress = Progress(**json.loads(str(saved["meta"])))
            self._losses = saved["losses"]
            self.model.load({name: saved[name] for name in ("coef", "intercept", "t")})
        self.order.update_weights(self._population, np.maximum(self._losses, _FLOOR))


def _merge(parts: Sequence[Batch]) -> tuple[dict[str, Any], np.ndarray[Any, np.dtype[np.int64]]]:
    """Join the ranks' parts of a global batch in its own order, as one process that holds the model would see it."""
    positions = np.concatenate([part.positions for part in parts])
    order = np.argsort(positions)
    ids = np.concatenate([part.sample_ids for part in parts])[order]
    table = pa.Table.from_batches([part.rows for part in parts if len(part)])
    rows = {name: table.column(name).to_numpy()[order] for name in COLUMNS}
    return rows, ids
