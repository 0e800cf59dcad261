"""foreshard: learns how training jobs read a dataset, re-packs it, and feeds it before the loop asks.

What a training job needs is named here and imported on first use:

    repository = foreshard.Repository(foreshard.ObjectStore.open("s3://bucket/prefix"), "dataset")
    order = foreshard.UniformOrder(train_ids, seed=1)
    loader = foreshard.Loader(repository, order, foreshard.LoaderOptions(global_batch=256))
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreshard.config import load_config
    from foreshard.errors import ForeshardError
    from foreshard.loader.batch import Batch
    from foreshard.loader.dealing import Place
    from foreshard.loader.epochs import mark_epoch
    from foreshard.loader.loader import Loader
    from foreshard.loader.options import LoaderOptions, Logging
    from foreshard.loader.order import (
        BlockShuffleOrder,
        ListedOrder,
        MixtureOrder,
        SequentialOrder,
        UniformOrder,
        WeightedOrder,
        shuffle_quality,
    )
    from foreshard.loader.reading import read_split
    from foreshard.shards.repository import Repository
    from foreshard.storage import ObjectStore

__version__ = "0.1.0"

_HOMES = {
    "Batch": "foreshard.loader.batch",
    "BlockShuffleOrder": "foreshard.loader.order",
    "ForeshardError": "foreshard.errors",
    "ListedOrder": "foreshard.loader.order",
    "Loader": "foreshard.loader.loader",
    "LoaderOptions": "foreshard.loader.options",
    "Logging": "foreshard.loader.options",
    "MixtureOrder": "foreshard.loader.order",
    "ObjectStore": "foreshard.storage",
    "Place": "foreshard.loader.dealing",
    "Repository": "foreshard.shards.repository",
    "SequentialOrder": "foreshard.loader.order",
    "UniformOrder": "foreshard.loader.order",
    "WeightedOrder": "foreshard.loader.order",
    "load_config": "foreshard.config",
    "mark_epoch": "foreshard.loader.epochs",
    "read_split": "foreshard.loader.reading",
    "shuffle_quality": "foreshard.loader.order",
}

__all__ = [
    "Batch",
    "BlockShuffleOrder",
    "ForeshardError",
    "ListedOrder",
    "Loader",
    "LoaderOptions",
    "Logging",
    "MixtureOrder",
    "ObjectStore",
    "Place",
    "Repository",
    "SequentialOrder",
    "UniformOrder",
    "WeightedOrder",
    "load_config",
    "mark_epoch",
    "read_split",
    "shuffle_quality",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _HOMES:
        raise AttributeError(f"module 'foreshard' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
