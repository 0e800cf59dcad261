"""The process that trains `gbm`: `python -m foreshard.forecast.gbm_worker IN OUT`."""

import sys
from typing import Any

from numpy.typing import NDArray

from foreshard.forecast.child import Arrays, serve, unpacked
from foreshard.forecast.ewma import Weights
from foreshard.forecast.gbm import next_epoch


def work(arrays: dict[str, NDArray[Any]]) -> Arrays:
    """Return the forecast of the next epoch for a packed history and the weights it is smoothed with."""
    history = unpacked(arrays)
    weights = Weights(int(arrays["season"]), arrays["alpha"], arrays["dispersion"])
    expected, probability = next_epoch(history, weights)
    return {"expected": expected, "probability": probability}


if __name__ == "__main__":
    serve(sys.argv[1:], work)
