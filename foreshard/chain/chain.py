"""The chain of stages behind one object: what an orchestrator calls, and what runs without one."""

from collections.abc import Callable, Mapping
from typing import Final

from foreshard.chain.access import events_stage, forecast_stage
from foreshard.chain.checks import (
    CheckOutcome,
    check_cover,
    check_current,
    check_events,
    check_forecast,
    check_prefetch,
    check_scores,
    check_shards,
)
from foreshard.chain.context import Context, Inputs
from foreshard.chain.dataset import profile_stage, recipe_stage
from foreshard.chain.measure import predictor_stage, trials_stage
from foreshard.chain.planning import plan_stage, scores_stage
from foreshard.chain.publishing import prefetch_stage, publish_stage, shards_stage
from foreshard.chain.result import StageResult
from foreshard.config import ForeshardConfig
from foreshard.errors import ForeshardError
from foreshard.keys import DatasetKeys
from foreshard.shards.repository import Repository
from foreshard.source import Snapshot
from foreshard.storage import ObjectStore

CHECKS: Final[Mapping[str, Callable[[Context, str], CheckOutcome]]] = {
    "events": check_events,
    "forecast": check_forecast,
    "scores": check_scores,
    "plan": check_cover,
    "shards": check_shards,
    "prefetch": check_prefetch,
    "publish": check_current,
}
"""What must hold after each stage of a generation before the next one may run."""


class Chain:
    """The stages from access logs to a published layout.

    Stages read their inputs from the object store and write their outputs there. Running one again with the same inputs
    writes the same bytes, so any of them may be retried after a crash. The store is opened on first use.

    Args:
        config: the whole configuration.
        store: the object store, opened from the configuration if left out.
    """

    def __init__(self, config: ForeshardConfig, store: ObjectStore | None = None) -> None:
        self.config = config
        self._context = Context(config, store)

    @property
    def store(self) -> ObjectStore:
        """The object store that holds layouts, logs and intermediate results."""
        return self._context.store

    @property
    def keys(self) -> DatasetKeys:
        """Names of the dataset's objects."""
        return self._context.keys

    @property
    def repository(self) -> Repository:
        """Snapshots, plans and layouts of the dataset."""
        return self._context.repository

    # -- what depends on the source and the configuration alone ----------------------------------------
    def snapshot(self) -> Snapshot:
        """Return the state of the source when this object first looked, saved with the split of every sample."""
        return self._context.snapshot

    def profile(self) -> StageResult:
        """Describe the snapshot's columns."""
        return profile_stage(self._context)

    def trials(self, progress: Callable[[int, int], None] | None = None) -> StageResult:
        """Measure what each strategy does to consistency; `progress` gets (done, total)."""
        return trials_stage(self._context, progress)

    def predictor(self) -> StageResult:
        """Train the predictor on the trials and write its card."""
        return predictor_stage(self._context)

    def recipe(self) -> StageResult:
        """Write what a re-shard aims for; its data version is the recipe's digest."""
        return recipe_stage(self._context)

    # -- one generation --------------------------------------------------------------------------------
    def inputs(self, generation: str) -> Inputs:
        """Return the window, snapshot and parent that a generation is pinned to."""
        return self._context.inputs(generation)

    def events(self, generation: str) -> StageResult:
        """Validate and compact the window's logs."""
        return events_stage(self._context, generation)

    def forecast(self, generation: str) -> StageResult:
        """Predict the next epoch's draws of every sample and rank the parent's chunks."""
        return forecast_stage(self._context, generation)

    def scores(self, generation: str) -> StageResult:
        """Predict a consistency score for each candidate strategy."""
        return scores_stage(self._context, generation)

    def plan(self, generation: str) -> StageResult:
        """Choose strategy, chunk boundaries and nodes."""
        return plan_stage(self._context, generation)

    def shards(self, generation: str, progress: Callable[[int, int], None] | None = None) -> StageResult:
        """Write the plan's shards and commit the layout; `progress` gets (shards in place, all shards)."""
        return shards_stage(self._context, generation, progress)

    def prefetch(self, generation: str) -> StageResult:
        """Write the prefetch manifest of each node."""
        return prefetch_stage(self._context, generation)

    def publish(self, generation: str) -> StageResult:
        """Point new readers at the layout."""
        return publish_stage(self._context, generation)

    def check(self, stage: str, generation: str) -> CheckOutcome:
        """Look at what a stage of `CHECKS` wrote for a generation."""
        return CHECKS[stage](self._context, generation)

    # -- without an orchestrator -----------------------------------------------------------------------
    def prepare(self, progress: Callable[[int, int], None] | None = None) -> dict[str, StageResult]:
        """Run the stages that no generation owns: profile, trials, predictor and recipe."""
        return {
            "profile": self.profile(),
            "trials": self.trials(progress),
            "predictor": self.predictor(),
            "recipe": self.recipe(),
        }

    def reshard(self, generation: str) -> dict[str, StageResult]:
        """Run every stage of a generation, each checked before the next one starts.

        Raises:
            ForeshardError: a stage failed, or its check did; nothing was published then.
        """
        stages: dict[str, Callable[[str], StageResult]] = {
            "events": self.events,
            "forecast": self.forecast,
            "scores": self.scores,
            "plan": self.plan,
            "shards": self.shards,
            "prefetch": self.prefetch,
            "publish": self.publish,
        }
        results: dict[str, StageResult] = {}
        for name, stage in stages.items():
            results[name] = stage(generation)
            outcome = self.check(name, generation)
            if not outcome.passed:
                raise ForeshardError(
                    f"generation {generation}: the check of stage {name!r} failed: {outcome.description}"
                )
        return results
