"""A rank dies in the middle of an epoch, and the job goes on with another number of ranks.

    python -m examples.training.resume_elastic

Two ranks train until one of them is killed by SIGKILL, as the kernel does when memory runs out. Three ranks go on from
the last checkpoint. The order of samples is that of a run which nothing disturbed: its hash is chained over the global
batches and saved with the model.
"""

import os
import signal
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch  # noqa: TID253 - an example of training with PyTorch
import torch.distributed as dist  # noqa: TID253
import torch.multiprocessing as mp  # noqa: TID253
import typer
from torch.nn.parallel import DistributedDataParallel  # noqa: TID253

import foreshard
from examples.training import dataset
from examples.training.network import COLUMNS, Network, global_batches, learn, predict, save_checkpoint, to_examples
from foreshard.loader.torch import data_loader


@dataclass(frozen=True)
class Job:
    """What a job trains; `kill_at` is the step of the first epoch at which the last rank dies, 0 for never."""

    data: str
    rows: int
    epochs: int
    batch: int
    every: int
    checkpoint: Path
    kill_at: int = 0


def train(rank: int, world: int, job: Job) -> None:
    """Train as one of `world` processes, from the checkpoint on if there is one."""
    rendezvous = job.checkpoint.with_suffix(f".world-{world}").as_uri()
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    repository = dataset.open_flights(job.data, job.rows)
    order = foreshard.BlockShuffleOrder(dataset.train_ids(repository), seed=1, block=512, window=4)
    options = foreshard.LoaderOptions(global_batch=job.batch, columns=COLUMNS, memory=1_000_000)
    loader = data_loader(repository, order, options, transform=to_examples)

    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    so_far = ""  # hash of the global batches that the model has learnt from
    if job.checkpoint.exists():
        saved = torch.load(job.checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])  # taken under another world size, which it does not hold
        so_far = saved["order"]
    x_held_out, y_held_out = dataset.validation_rows(repository)
    replica, seen = DistributedDataParallel(model), []
    if rank == 0:
        print("{} rank(s) from epoch {epoch}, step {step}".format(world, **loader.state_dict()), flush=True)

    while (epoch := loader.state_dict()["epoch"]) <= job.epochs:
        for x, y, ids in loader:
            learn(replica, optimizer, x, y)
            seen.append(ids.numpy())
            state = loader.state_dict()  # after an epoch's last step: the next epoch, step 0
            if state["step"] == job.kill_at > 0 and rank == world - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if state["step"] % job.every == 0:
                so_far, seen = dataset.order_hash(global_batches(seen), so_far), []
                if rank == 0:
                    save_checkpoint(job.checkpoint, model, optimizer, loader=state, order=so_far)
        if rank == 0:
            dataset.print_score(epoch, predict(model, x_held_out), y_held_out)
    loader.close()
    dist.destroy_process_group()


def run(world: int, job: Job) -> list[int | None]:
    """Run a job to its end and return the exit codes of its ranks; once one has failed, the others are ended too."""
    mp.get_context("forkserver").set_forkserver_preload(["torch._dynamo"])  # imported once for all ranks
    ranks = mp.start_processes(train, (world, job), nprocs=world, join=False, start_method="forkserver")
    try:
        while not ranks.join():
            pass
    except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
        print(f"the job failed: {str(error).strip().splitlines()[-1]}")
    return [process.exitcode for process in ranks.processes]


def main(
    data: dataset.Data = dataset.DATA,
    rows: dataset.Rows = dataset.ROWS,
    epochs: Annotated[int, typer.Option(min=1)] = 2,
    batch: Annotated[int, typer.Option(min=3, help="Samples per step, over all ranks.")] = 192,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 20,
    kill_at: Annotated[int, typer.Option(min=1, help="Step of the first epoch at which a rank is killed.")] = 70,
) -> None:
    """Predict from what is known at departure whether a flight will arrive late."""
    repository = dataset.open_flights(data, rows)  # laid out here, before there are several processes
    steps = len(dataset.train_ids(repository)) // batch
    if kill_at >= steps:
        raise typer.BadParameter(f"an epoch has {steps} steps; give fewer", param_hint="--kill-at")
    with tempfile.TemporaryDirectory() as folder:
        disturbed = Job(data, rows, epochs, batch, every, Path(folder) / "disturbed.pt", kill_at)
        print(f"exit codes {run(2, disturbed)}")
        print(f"exit codes {run(3, replace(disturbed, kill_at=0))}")
        undisturbed = replace(disturbed, checkpoint=Path(folder) / "undisturbed.pt", kill_at=0)
        train(0, 1, undisturbed)
        hashes = [torch.load(job.checkpoint, weights_only=True)["order"] for job in (disturbed, undisturbed)]
    print(f"order with the kill: {hashes[0]}")
    print(f"order without:       {hashes[1]}")


if __name__ == "__main__":
    typer.run(main)
