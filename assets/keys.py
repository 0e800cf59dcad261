"""Asset keys: two levels, stage first."""

from typing import Final

import dagster as dg

EPOCH_MARKERS: Final = dg.AssetKey(["training", "epoch_markers"])
RUNS: Final = dg.AssetKey(["training", "runs"])
PROFILE: Final = dg.AssetKey(["dataset", "profile"])
TRIALS: Final = dg.AssetKey(["consistency", "trials"])
PREDICTOR: Final = dg.AssetKey(["consistency", "predictor"])
SCORES: Final = dg.AssetKey(["consistency", "scores"])
RECIPE: Final = dg.AssetKey(["layout", "recipe"])
PLAN: Final = dg.AssetKey(["layout", "plan"])
CURRENT: Final = dg.AssetKey(["layout", "current"])
EVENTS: Final = dg.AssetKey(["access", "events"])
FORECAST: Final = dg.AssetKey(["access", "forecast"])
OBJECTS: Final = dg.AssetKey(["shards", "objects"])
PREFETCH: Final = dg.AssetKey(["shards", "prefetch_manifest"])

OWNERS: Final = ["team:training-data"]
