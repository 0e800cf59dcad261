"""Re-shards on request, each time in a process of its own that kills itself at a given write step.

Reads lines of JSON from standard input: where the store is, which plan, and at which step to die. Answers each with the
signal that ended the process (0 for none). The steps are those that the store itself tells of.
"""

import json
import os
import signal
import sys
from pathlib import Path

from foreshard.layout.plan import Plan
from foreshard.shards.materialize import Execution
from foreshard.shards.repository import Repository
from foreshard.source import SourceReader
from foreshard.storage import ObjectStore, Write


def step_name(write: Write) -> str:
    """Name a step the same way in every run: keys of leases and publications hold random tokens."""
    folder = write.key.split("/")[1]
    key = folder if folder in ("publications", "leases") else write.key
    return f"{'after' if write.done else 'before'} {write.action} {key}"


def reshard(order: dict) -> None:
    """Do everything that one re-shard writes, telling each step to a log, and die at the one that is asked for."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    seen: dict[str, int] = {}

    def observe(write: Write) -> None:
        name = step_name(write)
        seen[name] = seen.get(name, 0) + 1
        os.write(log, f"{json.dumps([f'{name} #{seen[name]}', write.key])}\n".encode())
        if f"{name} #{seen[name]}" == order["die"]:
            os.kill(os.getpid(), signal.SIGKILL)

    store = ObjectStore.open(order["url"], endpoint=order["endpoint"])
    store.on_write = observe
    repository = Repository(store, "data")
    plan = Plan.from_bytes(*(Path(part).read_bytes() for part in order["plan"]))
    reader = SourceReader(repository.load_snapshot(plan.fingerprint))
    one_by_one = Execution(workers=1, group_bytes=1)
    repository.make(plan, reader, execution=one_by_one)
    repository.publish(plan.ref)


def main() -> None:
    """Serve until the input ends. This process never opens a store, so that its forks are sound."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            reshard(json.loads(line))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
