"""The training jobs at both ends of the loop. They run elsewhere: Dagster observes them, it does not make them.

Asset graphs have no cycles, so the loop cannot be drawn as one: it starts at `epoch_markers` and ends at `runs`.
"""

import dagster as dg

from assets.keys import CURRENT, EPOCH_MARKERS, OWNERS, PREFETCH, RUNS

epoch_markers = dg.AssetSpec(
    EPOCH_MARKERS,
    description="Create-only objects that training jobs write when an epoch's access logs are durable.",
    group_name="training",
    kinds={"json"},
    owners=OWNERS,
)

training_runs = dg.AssetSpec(
    RUNS,
    deps=[CURRENT, PREFETCH],
    description="Training jobs that read the current layout and keep in memory what the prefetch manifest names.",
    group_name="training",
    kinds={"python"},
    owners=OWNERS,
)
