"""PyTorch in one process: a DataLoader with workers, and a checkpoint that resumes in the middle of an epoch.

    python -m examples.training.torch_single
    python -m examples.training.torch_single --stop-after 200   # like a job whose time is up; the next call goes on

Whatever the workers have read ahead, the loader's state counts the batches that the training loop received.
"""

from pathlib import Path
from typing import Annotated

import torch  # noqa: TID253 - an example of training with PyTorch
import typer

import foreshard
from examples.training import dataset
from examples.training.network import COLUMNS, Network, learn, predict, save_checkpoint, to_examples
from foreshard.loader.torch import data_loader


def main(
    data: dataset.Data = dataset.DATA,
    rows: dataset.Rows = dataset.ROWS,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 256,
    num_workers: Annotated[int, typer.Option(min=0, help="DataLoader workers; with 0, threads read.")] = 2,
    checkpoint: Annotated[Path, typer.Option(help="Resumed from if it exists.")] = dataset.FOLDER / "torch_single.pt",
    stop_after: Annotated[int | None, typer.Option(min=1, help="Save and stop after so many steps.")] = None,
) -> None:
    """Predict from what is known at departure whether a flight will arrive late."""
    repository = dataset.open_flights(data, rows)
    order = foreshard.BlockShuffleOrder(dataset.train_ids(repository), seed=1, block=512, window=4)
    options = foreshard.LoaderOptions(global_batch=batch, columns=COLUMNS, memory=1_000_000)
    loader = data_loader(repository, order, options, transform=to_examples, num_workers=num_workers)

    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])  # a few numbers: nothing is read again that was trained on
        print(f"resuming at epoch {saved['loader']['epoch']}, step {saved['loader']['step']}")

    x_held_out, y_held_out = dataset.validation_rows(repository)
    steps = 0
    while (epoch := loader.state_dict()["epoch"]) <= epochs:
        for x, y, _ in loader:  # the rest of the epoch
            learn(model, optimizer, x, y)
            steps += 1
            if steps == stop_after:
                break
        save_checkpoint(checkpoint, model, optimizer, loader=loader.state_dict())
        if steps == stop_after:
            print(f"stopped after {steps} steps; the checkpoint is in {checkpoint}")
            break
        dataset.print_score(epoch, predict(model, x_held_out), y_held_out)
    else:
        print(f"trained for {epochs} epochs; the checkpoint is in {checkpoint}")
    loader.close()


if __name__ == "__main__":
    typer.run(main)
