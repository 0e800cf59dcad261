"""scikit-learn: a classifier that learns batch by batch (`partial_fit`), from a dataset larger than its memory.

    python -m examples.training.scikit_learn

The loader keeps 1 MB of the training data in memory and fetches the rest before the loop asks for it. Its batches read
like dicts of numpy arrays.
"""

from typing import Annotated

import numpy as np
import typer
from sklearn.linear_model import SGDClassifier  # noqa: TID253 - an example of training with scikit-learn

import foreshard
from examples.flights.model import COLUMNS, features, labels
from examples.training import dataset


def main(
    data: dataset.Data = dataset.DATA,
    rows: dataset.Rows = dataset.ROWS,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 256,
) -> None:
    """Predict from what is known at departure whether a flight will arrive late."""
    repository = dataset.open_flights(data, rows)

    # The order is a function of ids and seed alone, however the samples are packed: blocks of neighbours are shuffled,
    # and samples within windows of four of them, so that memory for a few does. `UniformOrder` shuffles without bounds.
    order = foreshard.BlockShuffleOrder(dataset.train_ids(repository), seed=1, block=512, window=4)
    options = foreshard.LoaderOptions(global_batch=batch, columns=COLUMNS, memory=1_000_000)
    loader = foreshard.Loader(repository, order, options)

    x, y = dataset.validation_rows(repository)

    model = SGDClassifier(loss="log_loss", alpha=1e-6, learning_rate="constant", eta0=0.02, random_state=0)
    for epoch in range(1, epochs + 1):
        for flights in loader:  # one epoch; the next loop is the next epoch
            model.partial_fit(features(flights), labels(flights), classes=np.array([0, 1]))
        dataset.print_score(epoch, model.predict(x), y)
    print(loader.report())
    loader.close()


if __name__ == "__main__":
    typer.run(main)
