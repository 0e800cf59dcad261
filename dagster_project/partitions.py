"""The one partition dimension. A key names the run, the boundary and so the window of logs it consumes."""

from typing import Final

import dagster as dg

GENERATION: Final = "generation"

generation = dg.DynamicPartitionsDefinition(name=GENERATION)
"""Keys are `<run>.e<epoch:06d>`; the sensor adds them in epoch order, which ranges and backfills follow."""
