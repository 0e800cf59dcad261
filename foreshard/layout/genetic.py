"""A memetic genetic algorithm on DEAP: (mu + lambda) selection over numpy individuals with local search."""

import random
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foreshard.layout.balance import BalanceProblem
from foreshard.layout.greedy import greedy_placements, repaired
from foreshard.layout.local_search import improve

_MU: Final = 12
_LAMBDA: Final = 24
_SEARCHED: Final = 3
_SEARCH_STEPS: Final = 24
_FIRST_STEPS: Final = 300
_GOOD_ENOUGH: Final = 5e-4


@dataclass(eq=False)
class _Individual:
    genes: NDArray[np.int32]
    fitness: Any  # deap.base.Fitness


def evolve(problem: BalanceProblem, seed: bytes, generations: int) -> NDArray[np.int32]:
    """Return the best placement found; it always fits in memory.

    The first population is greedy (`greedy_placements`), its best members climbed; children come from crossover of
    nodes or chunks and from mutation, the best few of each generation are climbed too. Nothing is timed and
    all randomness comes from `seed`, so equal input gives equal output.

    Args:
        problem: what to place.
        seed: 16 bytes.
        generations: at most so many; fewer once the lower bound is within 0.05 %; 0 for climbed greedy placements.

    Raises:
        PlanError: the chunks do not fit.
    """
    # DEAP draws from the global generator of `random`: seed it for the run and put it back as it was.
    state = random.getstate()
    random.seed(int.from_bytes(seed, "little"))
    try:
        return _evolve(problem, seed, generations)
    finally:
        random.setstate(state)


def _evolve(problem: BalanceProblem, seed: bytes, generations: int) -> NDArray[np.int32]:
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(seed, "little")))
    toolbox = _toolbox(problem, rng)
    noise = rng.uniform(0.5, 2.0, (_MU - 2, problem.chunks))
    population = [toolbox.individual(genes) for genes in greedy_placements(problem, noise)]
    _evaluate(problem, population)
    population = _climb_best(problem, toolbox, population, _SEARCHED, _FIRST_STEPS)
    bound = problem.lower_bound()
    for _ in range(generations if problem.nodes > 1 else 0):
        best = toolbox.select(population, 1)[0]
        if best.fitness.values[0] <= bound * (1 + _GOOD_ENOUGH):
            break
        children = _fitting(problem, toolbox, [_child(toolbox, population) for _ in range(_LAMBDA)])
        children = _climb_best(problem, toolbox, children, _SEARCHED, _SEARCH_STEPS)
        population = toolbox.select(_distinct(population + children), _MU)
    best = toolbox.select(population, 1)[0]
    return improve(problem, best.genes, _FIRST_STEPS)


def _toolbox(problem: BalanceProblem, rng: np.random.Generator) -> Any:  # noqa: ANN401 - deap has no types
    from deap import base, tools

    # A plain subclass instead of deap.creator, which would keep it in a global module.
    fitness: Any = type("PlacementFitness", (base.Fitness,), {"weights": (-1.0,)})

    def individual(genes: NDArray[np.int32]) -> _Individual:
        return _Individual(genes, fitness())

    def mate(first: _Individual, second: _Individual) -> _Individual:
        if random.random() < 0.5:  # noqa: S311, PLR2004 - not cryptography; whole nodes or single chunks
            from_first = (rng.random(problem.nodes) < 0.5)[first.genes]  # noqa: PLR2004
        else:
            from_first = rng.random(problem.chunks) < 0.5  # noqa: PLR2004
        return individual(np.where(from_first, first.genes, second.genes).astype(np.int32))

    def mutate(parent: _Individual) -> _Individual:
        genes = parent.genes.copy()
        # Mostly few genes, sometimes up to half of them: a small step refines, a large one leaves a local optimum.
        count = max(1, int(problem.chunks * 10 ** -random.uniform(0.3, 3.0)))  # noqa: S311 - not cryptography
        genes[rng.integers(0, problem.chunks, count)] = rng.integers(0, problem.nodes, count)
        return individual(genes)

    toolbox: Any = base.Toolbox()
    toolbox.register("individual", individual)
    toolbox.register("mate", mate)
    toolbox.register("mutate", mutate)
    toolbox.register("pick", tools.selTournament, tournsize=3)
    toolbox.register("select", tools.selBest)
    return toolbox


def _child(toolbox: Any, population: list[_Individual]) -> _Individual:  # noqa: ANN401 - deap has no types
    first, second = toolbox.pick(population, 2)
    child = toolbox.mate(first, second) if random.random() < 0.6 else first  # noqa: S311, PLR2004
    return toolbox.mutate(child)


def _evaluate(problem: BalanceProblem, individuals: list[_Individual]) -> None:
    objective, excess = problem.evaluate(np.stack([individual.genes for individual in individuals]))
    # What does not fit is worse than all that fits, and the worse the more bytes are too many.
    penalty = np.where(excess > 0, 1e12 * (1 + excess / max(float(problem.nbytes.sum()), 1.0)), 0.0)
    for individual, value in zip(individuals, objective + penalty, strict=True):
        individual.fitness.values = (float(value),)


def _fitting(problem: BalanceProblem, toolbox: Any, children: list[_Individual]) -> list[_Individual]:  # noqa: ANN401
    """Return the children, evaluated; those that exceed memory are repaired."""
    _, excess = problem.evaluate(np.stack([child.genes for child in children]))
    fitting = [
        toolbox.individual(repaired(problem, child.genes)) if over else child
        for child, over in zip(children, (excess > 0).tolist(), strict=True)
    ]
    _evaluate(problem, fitting)
    return fitting


def _climb_best(
    problem: BalanceProblem,
    toolbox: Any,  # noqa: ANN401 - deap has no types
    individuals: list[_Individual],
    count: int,
    steps: int,
) -> list[_Individual]:
    # The first is any child, not one of the best: those are often alike.
    best: list[_Individual] = [individuals[0], *toolbox.select(individuals[1:], count - 1)]
    climbed = [toolbox.individual(improve(problem, individual.genes, steps)) for individual in best]
    _evaluate(problem, climbed)
    return individuals + climbed


def _distinct(individuals: list[_Individual]) -> list[_Individual]:
    return list({individual.genes.tobytes(): individual for individual in individuals}.values())
