"""The Dagster code location: partitions, jobs, checks, sensors and schedules around the assets."""
