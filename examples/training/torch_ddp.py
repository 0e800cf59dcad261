"""PyTorch DistributedDataParallel: every rank gets its part of each global batch, and equally many of them.

    python -m examples.training.torch_ddp                                        # starts two processes itself
    torchrun --nproc-per-node 2 -m examples.training.torch_ddp                   # is started by torchrun

The loader takes rank and world size from PyTorch and runs no collective. Together the ranks see, batch by batch, what
one process would: the example gathers the sample ids to show it.
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch  # noqa: TID253 - an example of training with PyTorch
import torch.distributed as dist  # noqa: TID253
import torch.multiprocessing  # noqa: TID253
import typer
from torch.nn.functional import binary_cross_entropy_with_logits  # noqa: TID253
from torch.nn.parallel import DistributedDataParallel  # noqa: TID253

import foreshard
from examples.training.dataset import DATA, ROWS, Data, Rows, open_flights, order_hash, train_ids, validation_rows
from examples.training.network import COLUMNS, Network, auc, to_examples
from foreshard.loader.torch import data_loader


def train(rank: int, world: int, data: str, rows: int, epochs: int, batch: int, rendezvous: str) -> None:
    """Train as one of `world` processes."""
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    repository = open_flights(data, rows)
    order = foreshard.BlockShuffleOrder(train_ids(repository), seed=1, block=512, window=4)
    options = foreshard.LoaderOptions(global_batch=batch, columns=COLUMNS, cache_fraction=0.2)
    loader = data_loader(repository, order, options, transform=to_examples)  # knows its rank from the process group

    model = DistributedDataParallel(Network())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x_held_out, y_held_out = validation_rows(repository)
    seen: list[Any] = []
    for epoch in range(1, epochs + 1):
        for x, y, ids in loader:
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(model(x), y).backward()  # averages gradients over the ranks
            optimizer.step()
            seen.append(ids.numpy())
        if rank == 0:
            print(f"epoch {epoch}: validation AUC {auc(model.module, x_held_out, y_held_out):.4f}", flush=True)
    loader.close()

    everyone: list[Any] = [None] * world
    dist.all_gather_object(everyone, seen)
    dist.destroy_process_group()
    if rank == 0:
        print(f"batches of each rank: {', '.join(str(len(mine)) for mine in everyone)}")
        # A rank's part of a global batch follows that of the rank before it.
        together = (np.concatenate(parts) for parts in zip(*everyone, strict=True))
        print(f"order of {world} ranks:     {order_hash(together)}")
        alone = foreshard.Loader(repository, order, options)
        print(f"order of one process: {order_hash(b.sample_ids for _ in range(epochs) for b in alone)}", flush=True)
        alone.close()


def main(
    data: Data = DATA,
    rows: Rows = ROWS,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch: Annotated[int, typer.Option(min=2, help="Samples per step, over all ranks.")] = 256,
    world: Annotated[int, typer.Option(min=1, help="Processes; torchrun's count where it started this one.")] = 2,
) -> None:
    """Predict from what is known at departure whether a flight will arrive late."""
    if "RANK" in os.environ:  # torchrun started this process
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        train(rank, world, data, rows, epochs, batch, "env://")
        return
    open_flights(data, rows)  # once, before there are several
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = (Path(folder) / "rendezvous").as_uri()
        torch.multiprocessing.spawn(train, (world, data, rows, epochs, batch, rendezvous), nprocs=world)


if __name__ == "__main__":
    typer.run(main)
