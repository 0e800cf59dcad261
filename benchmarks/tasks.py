"""What benchmarks run in processes of their own: `python -m benchmarks.tasks TASK ...` prints its answer as JSON.

Nothing is imported here that a task does not need, as its memory is measured.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Final


def import_only() -> None:
    """Load what opening a layout needs, and nothing more: the ground that memory is measured from."""
    import foreshard.shards.repository
    import foreshard.storage  # noqa: F401


def materialize_samples(rows: str, url: str) -> dict[str, float]:
    """Materialise and commit the workload `samples` in an empty store; return seconds and bytes written."""
    from benchmarks.workloads import lay_out, samples
    from foreshard.storage import ObjectStore

    outcome = lay_out(samples(int(rows)), ObjectStore.open(url))
    return {"seconds": outcome.seconds, "bytes": outcome.made.written_bytes}


def commit_big_layout(chunks: str, url: str) -> list[str]:
    """Commit a layout of so many chunks; return its reference."""
    from benchmarks.big_layout import commit_big_layout as commit
    from foreshard.shards.repository import Repository
    from foreshard.storage import ObjectStore

    ref = commit(Repository(ObjectStore.open(url), "data"), int(chunks))
    return [ref.generation, ref.plan_digest]


def open_layout(url: str, generation: str, plan_digest: str) -> dict[str, float]:
    """Open a committed layout and look at one chunk; return seconds and the number of chunks."""
    from foreshard.shards.repository import LayoutRef, Repository
    from foreshard.storage import ObjectStore

    repository = Repository(ObjectStore.open(url), "data")
    began = time.perf_counter()
    manifest = repository.open(LayoutRef(generation, plan_digest))
    middle = len(manifest) // 2
    assert manifest.ends[middle] > manifest.starts[middle]
    assert manifest.chunk_of[len(manifest.chunk_of) // 2] >= 0
    return {"seconds": time.perf_counter() - began, "chunks": len(manifest)}


def peer_task(task: str, *arguments: str) -> Any:  # noqa: ANN401 - what the task returns, for JSON
    """Run a task of `benchmarks.peers_reading`."""
    from benchmarks import peers_reading

    return getattr(peers_reading, task)(*arguments)


def forecast_task(task: str, *arguments: str) -> Any:  # noqa: ANN401 - what the task returns, for JSON
    """Run a task of `benchmarks.forecast_tasks`."""
    from benchmarks import forecast_tasks

    return getattr(forecast_tasks, task)(*arguments)


TASKS: Final[dict[str, Callable[..., Any]]] = {
    task.__name__: task
    for task in (import_only, materialize_samples, commit_big_layout, open_layout, peer_task, forecast_task)
}


if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](*sys.argv[2:])))
