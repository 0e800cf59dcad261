"""The strategies by name."""

from collections.abc import Sequence

from foreshard.errors import PlanError
from foreshard.strategies.base import Strategy
from foreshard.strategies.content import clustered, hotness, stratified, stratified_hotness
from foreshard.strategies.orders import contiguous, hashed, seeded_shuffle

STRATEGIES: dict[str, Strategy] = {
    "contiguous": contiguous,
    "hash": hashed,
    "seeded_shuffle": seeded_shuffle,
    "stratified": stratified,
    "clustered": clustered,
    "hotness": hotness,
    "stratified_hotness": stratified_hotness,
}
"""Every strategy; add one by adding an entry."""


def get_strategies(names: Sequence[str] = ()) -> dict[str, Strategy]:
    """Return the named strategies in the order given, all of them for no name.

    Raises:
        PlanError: a name that is not in `STRATEGIES`.
    """
    for name in names:
        if name not in STRATEGIES:
            raise PlanError(f"strategy {name!r} is unknown; use some of {', '.join(STRATEGIES)}")
    return {name: STRATEGIES[name] for name in names or STRATEGIES}
