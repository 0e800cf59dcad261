"""PyTorch DistributedDataParallel: every rank gets its part of each global batch, and equally many of them.

    python -m examples.training.torch_ddp                         # starts two processes itself
    torchrun --nproc-per-node 2 -m examples.training.torch_ddp    # torchrun starts them

The loader takes rank and world size from PyTorch and runs no collective. Together the ranks see, batch by batch, what
one process would: the example gathers the sample ids to show it.
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import torch  # noqa: TID253 - an example of training with PyTorch
import torch.distributed as dist  # noqa: TID253
import torch.multiprocessing  # noqa: TID253
import typer
from torch.nn.parallel import DistributedDataParallel  # noqa: TID253

import foreshard
from examples.training import dataset
from examples.training.network import COLUMNS, Network, global_batches, learn, predict, to_examples
from foreshard.loader.torch import data_loader


def train(rank: int, world: int, data: str, rows: int, epochs: int, batch: int, rendezvous: str) -> None:
    """Train as one of `world` processes."""
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    if rank == 0:
        dataset.open_flights(data, rows)  # laid out by one of them, if need be
    dist.barrier()
    repository = dataset.open_flights(data, rows)
    order = foreshard.BlockShuffleOrder(dataset.train_ids(repository), seed=1, block=512, window=4)
    options = foreshard.LoaderOptions(global_batch=batch, columns=COLUMNS, memory=1_000_000)
    loader = data_loader(repository, order, options, transform=to_examples)  # knows its rank from the process group

    model = DistributedDataParallel(Network())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x_held_out, y_held_out = dataset.validation_rows(repository)
    seen = []
    for epoch in range(1, epochs + 1):
        for x, y, ids in loader:
            learn(model, optimizer, x, y)
            seen.append(ids.numpy())
        if rank == 0:
            dataset.print_score(epoch, predict(model.module, x_held_out), y_held_out)
    loader.close()

    together = global_batches(seen)
    dist.destroy_process_group()
    if rank == 0:
        print(f"{len(together)} batches on each of {world} ranks")
        print(f"order of all ranks:   {dataset.order_hash(together)}")
        alone = foreshard.Loader(repository, order, options)
        batches = (batch.sample_ids for _ in range(epochs) for batch in alone)
        print(f"order of one process: {dataset.order_hash(batches)}")
        alone.close()


def main(
    data: dataset.Data = dataset.DATA,
    rows: dataset.Rows = dataset.ROWS,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch: Annotated[int, typer.Option(min=2, help="Samples per step, over all ranks.")] = 256,
    world: Annotated[int, typer.Option(min=1, help="Processes; torchrun's count where it started this one.")] = 2,
) -> None:
    """Predict from what is known at departure whether a flight will arrive late."""
    if "RANK" in os.environ:  # torchrun started this process
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        train(rank, world, data, rows, epochs, batch, "env://")
        return
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = (Path(folder) / "rendezvous").as_uri()
        torch.multiprocessing.spawn(train, (world, data, rows, epochs, batch, rendezvous), nprocs=world)


if __name__ == "__main__":
    typer.run(main)
