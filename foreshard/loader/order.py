"""Sample orders: which sample ids a run sees in an epoch. Functions of (order, seed, epoch, population) alone.

No order knows chunks, shards, nodes, ranks or workers, so a re-shard or another world size cannot change one.
"""

from foreshard.loader.orders.listed import ListedOrder
from foreshard.loader.orders.mixture import MixtureOrder
from foreshard.loader.orders.population import PopulationLike
from foreshard.loader.orders.protocol import Order, check_order
from foreshard.loader.orders.quality import ShuffleQuality, shuffle_quality
from foreshard.loader.orders.shuffles import BlockShuffleOrder, SequentialOrder, UniformOrder
from foreshard.loader.orders.weighted import WeightedOrder

__all__ = [
    "BlockShuffleOrder",
    "ListedOrder",
    "MixtureOrder",
    "Order",
    "PopulationLike",
    "SequentialOrder",
    "ShuffleQuality",
    "UniformOrder",
    "WeightedOrder",
    "check_order",
    "shuffle_quality",
]
