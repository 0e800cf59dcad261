"""PyTorch in one process: a DataLoader with workers, and a checkpoint that resumes in the middle of an epoch.

    python -m examples.training.torch_single
    python -m examples.training.torch_single --stop-after 200   # like a job whose time is up; the next call goes on

Whatever the workers have read ahead, the loader's state counts the batches that the training loop received.
"""

from pathlib import Path
from typing import Annotated

import torch  # noqa: TID253 - an example of training with PyTorch
import typer
from torch.nn.functional import binary_cross_entropy_with_logits  # noqa: TID253

import foreshard
from examples.training.dataset import DATA, FOLDER, ROWS, Data, Rows, open_flights, train_ids, validation_rows
from examples.training.network import COLUMNS, Network, auc, to_examples
from foreshard.loader.torch import data_loader


def main(
    data: Data = DATA,
    rows: Rows = ROWS,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 256,
    num_workers: Annotated[int, typer.Option(min=0, help="DataLoader workers; with 0, threads read.")] = 2,
    checkpoint: Annotated[Path, typer.Option(help="Resumed from if it exists.")] = FOLDER / "torch_single.pt",
    stop_after: Annotated[int | None, typer.Option(min=1, help="Save and stop after so many steps.")] = None,
) -> None:
    """Predict from what is known at departure whether a flight will arrive late."""
    repository = open_flights(data, rows)
    order = foreshard.BlockShuffleOrder(train_ids(repository), seed=1, block=512, window=4)
    options = foreshard.LoaderOptions(global_batch=batch, columns=COLUMNS, cache_fraction=0.2)
    loader = data_loader(repository, order, options, transform=to_examples, num_workers=num_workers)

    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])  # a few numbers: nothing is read again that was trained on
        print(f"resuming at epoch {saved['loader']['epoch']}, step {saved['loader']['step']}")

    def save() -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(checkpoint)

    x_held_out, y_held_out = validation_rows(repository)
    steps = 0
    while (epoch := loader.state_dict()["epoch"]) <= epochs:
        for x, y, _ in loader:  # the rest of the epoch
            optimizer.zero_grad()
            loss = binary_cross_entropy_with_logits(model(x), y)
            loss.backward()
            optimizer.step()
            steps += 1
            if steps == stop_after:
                break
        save()
        if steps == stop_after:
            print(f"stopped after {steps} steps; the checkpoint is in {checkpoint}")
            break
        print(f"epoch {epoch}: loss {loss.item():.4f}, validation AUC {auc(model, x_held_out, y_held_out):.4f}")
    else:
        print(f"trained for {epochs} epochs; the checkpoint is in {checkpoint}")
    loader.close()


if __name__ == "__main__":
    typer.run(main)
