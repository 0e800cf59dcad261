"""The assets of the chain, one module a stage. Each calls the library and reports what it wrote; no logic is here."""

from typing import Final

from assets.access import access_events, access_forecast
from assets.consistency import consistency_predictor, consistency_scores, consistency_trials
from assets.dataset import dataset_profile
from assets.layout import layout_current, layout_plan, layout_recipe
from assets.shards import shards_objects, shards_prefetch_manifest
from assets.training import epoch_markers, training_runs

all_assets: Final = [
    epoch_markers,
    dataset_profile,
    consistency_trials,
    consistency_predictor,
    layout_recipe,
    access_events,
    access_forecast,
    consistency_scores,
    layout_plan,
    shards_objects,
    shards_prefetch_manifest,
    layout_current,
    training_runs,
]
"""In the order in which data flows through them."""
