"""Jobs: the first layout, a re-shard, and an evaluation that publishes nothing.

All run in one process: the stages parallelise inside where it pays, and a process per step would cost seconds each.
"""

import dagster as dg

from assets.keys import EVENTS, FORECAST

bootstrap = dg.define_asset_job(
    "bootstrap",
    selection=dg.AssetSelection.all(),
    executor_def=dg.in_process_executor,
    description="Profile the source, measure and predict consistency, and publish a run's first layout.",
)

reshard = dg.define_asset_job(
    "reshard",
    selection=dg.AssetSelection.assets(EVENTS).downstream().materializable(),
    executor_def=dg.in_process_executor,
    description="Read a window of access logs, plan, materialise and publish a new generation.",
)

evaluate = dg.define_asset_job(
    "evaluate",
    selection=dg.AssetSelection.assets(FORECAST),
    executor_def=dg.in_process_executor,
    description="Forecast a generation again and backtest it; nothing is planned or published.",
)
