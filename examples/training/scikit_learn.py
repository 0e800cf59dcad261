"""scikit-learn: a classifier that learns batch by batch (`partial_fit`), from a dataset larger than its memory.

    python -m examples.training.scikit_learn

The loader keeps a fifth of the training data in memory and fetches the rest before the loop asks for it. Its batches
read like dicts of numpy arrays.
"""

from typing import Annotated

import numpy as np
import typer
from sklearn.linear_model import SGDClassifier  # noqa: TID253 - an example of training with scikit-learn
from sklearn.metrics import roc_auc_score  # noqa: TID253

import foreshard
from examples.flights.model import COLUMNS, features, labels
from examples.training.dataset import (
    DATA,
    ROWS,
    Data,
    Rows,
    open_flights,
    print_report,
    train_ids,
    validation_rows,
)


def main(
    data: Data = DATA,
    rows: Rows = ROWS,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 256,
) -> None:
    """Predict from what is known at departure whether a flight will arrive late."""
    repository = open_flights(data, rows)

    # The order is a function of ids and seed alone, however the samples are packed: blocks of neighbours are shuffled,
    # and samples within windows of four of them, so that memory for a few does. `UniformOrder` shuffles without bounds.
    order = foreshard.BlockShuffleOrder(train_ids(repository), seed=1, block=512, window=4)
    options = foreshard.LoaderOptions(global_batch=batch, columns=COLUMNS, cache_fraction=0.2)
    loader = foreshard.Loader(repository, order, options)

    x, y = validation_rows(repository)
    print(f"always 'on time' would be right for {1 - y.mean():.1%} of the validation flights")

    model = SGDClassifier(loss="log_loss", alpha=1e-6, learning_rate="constant", eta0=0.02, random_state=0)
    for epoch in range(1, epochs + 1):
        for flights in loader:  # one epoch; the next loop is the next epoch
            model.partial_fit(features(flights), labels(flights), classes=np.array([0, 1]))
        auc = roc_auc_score(y, model.decision_function(x))
        print(f"epoch {epoch}: validation accuracy {model.score(x, y):.4f}, AUC {auc:.4f}")
        print_report(loader)
    loader.close()


if __name__ == "__main__":
    typer.run(main)
