"""Sensors: a re-shard for each boundary that a training job passed, and a word on runs that failed.

One run per boundary, also across crashes, rests on four guards (research/dagster.md §5.4): the run key, the cursor in
the same tick row, the partition that is materialised already, and writes that are create-only or compare-and-swap.
Renaming the sensor forgets its run keys.
"""

import json
from dataclasses import dataclass, field

import dagster as dg

from assets.keys import CURRENT, EPOCH_MARKERS
from dagster_project.jobs import bootstrap, reshard
from dagster_project.partitions import generation
from resources import ProjectResource


@dataclass
class _Tick:
    """What one evaluation found."""

    boundaries: dict[str, int] = field(default_factory=dict)
    requests: list[dg.RunRequest] = field(default_factory=list)
    observations: list[dg.AssetObservation] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


@dg.sensor(
    jobs=[bootstrap, reshard],
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests a re-shard when a training job has finished N more epochs, and its first layout at epoch 0.",
)
def reshard_every_n_epochs(context: dg.SensorEvaluationContext, project: ProjectResource) -> dg.SensorResult:
    """Look at the newest epoch marker of each run; the cursor holds the last boundary acted on, by run."""
    from foreshard.access.markers import list_runs

    chain = project.chain()
    fired: dict[str, int] = json.loads(context.cursor or "{}")
    done = context.instance.get_materialized_partitions(CURRENT)
    tick = _Tick()
    for run in list_runs(chain.store, chain.keys):
        _look_at(run, project, fired, done, tick)
    cursor = json.dumps(tick.boundaries, sort_keys=True)
    if not tick.requests:
        reason = "; ".join(tick.reasons) or f"no run is registered below {chain.keys.runs} in {chain.store.url}"
        return dg.SensorResult(skip_reason=reason, cursor=cursor)
    new = [str(request.partition_key) for request in tick.requests]
    return dg.SensorResult(
        run_requests=tick.requests,
        dynamic_partitions_requests=[generation.build_add_request(new)],
        asset_events=tick.observations,
        cursor=cursor,
    )


def _look_at(run: str, project: ProjectResource, fired: dict[str, int], done: set[str], tick: _Tick) -> None:
    from foreshard.chain.boundaries import NEVER, due_boundary, marker_epochs, planned_epochs
    from foreshard.keys import generation_key

    chain = project.chain()
    every = chain.config.reshard.every
    last = fired.get(run, NEVER)
    epochs = marker_epochs(chain.store, chain.keys, run, after=last)
    due = due_boundary(epochs, every, last)
    planned = planned_epochs(chain.store, chain.keys, run) if due else None
    if planned is not None and due_boundary(epochs, every, last, planned=planned) is None:
        tick.boundaries[run] = last
        tick.reasons.append(f"run {run} has trained all of its {planned} epochs: a new layout would have no reader")
        return
    if due is None:
        tick.boundaries[run] = last
        newest = epochs[-1] if epochs else last
        tick.reasons.append(
            f"run {run} has finished epoch {newest}, the next boundary is {(last // every + 1) * every}"
        )
        return
    key = generation_key(run, due)
    tick.boundaries[run] = due
    if key in done:
        tick.reasons.append(f"generation {key} is published already")
        return
    job = bootstrap if due == 0 else reshard
    tick.requests.append(dg.RunRequest(run_key=f"reshard/{key}", partition_key=key, job_name=job.name))
    tick.observations.append(
        dg.AssetObservation(EPOCH_MARKERS, metadata={"run": run, "epoch": epochs[-1], "boundary": due})
    )


@dg.run_failure_sensor(
    monitored_jobs=[bootstrap, reshard],
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Says what to do about a failed generation: the old layout stays current until then.",
)
def report_failed_generation(context: dg.RunFailureSensorContext) -> None:
    """Log the failure with its fix; a boundary's run key is spent, so the run must be executed again by hand."""
    context.log.error(
        "job %s failed for generation %s: %s. Training goes on with the layout that is current. Fix the cause, then "
        "re-execute run %s from failure in the UI; the next boundary does not wait for it.",
        context.dagster_run.job_name,
        context.dagster_run.tags.get("dagster/partition"),
        context.failure_event.message,
        context.dagster_run.run_id,
    )
