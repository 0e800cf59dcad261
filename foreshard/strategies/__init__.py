"""Strategies: ways to group the rows of a split into chunks and nodes."""

from foreshard.strategies.base import Arrangement, Dealing, Strategy, StrategyInput
from foreshard.strategies.partition import cut_groups, deal, partition
from foreshard.strategies.registry import STRATEGIES, get_strategies

__all__ = [
    "STRATEGIES",
    "Arrangement",
    "Dealing",
    "Strategy",
    "StrategyInput",
    "cut_groups",
    "deal",
    "get_strategies",
    "partition",
]
