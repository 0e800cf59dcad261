"""How a way of partitioning would affect the consistency of training: profile, trials and predictor."""

from foreshard.consistency.learners import LEARNERS
from foreshard.consistency.measure import Measurement, measure
from foreshard.consistency.partition import partition_sketch
from foreshard.consistency.plots import correlation_plot, score_plot
from foreshard.consistency.predictor import Predictor, Score, fit_predictor
from foreshard.consistency.profile import DatasetProfile, profile_dataset
from foreshard.consistency.score import SCORE_SCHEMA, score_partition, score_strategies
from foreshard.consistency.sketch import feature_sketch
from foreshard.consistency.tasks import TrialTask, bundled_tasks, subsample_tasks
from foreshard.consistency.trials import TRIAL_SCHEMA, run_trials

__all__ = [
    "LEARNERS",
    "SCORE_SCHEMA",
    "TRIAL_SCHEMA",
    "DatasetProfile",
    "Measurement",
    "Predictor",
    "Score",
    "TrialTask",
    "bundled_tasks",
    "correlation_plot",
    "feature_sketch",
    "fit_predictor",
    "measure",
    "partition_sketch",
    "profile_dataset",
    "run_trials",
    "score_partition",
    "score_plot",
    "score_strategies",
    "subsample_tasks",
]
