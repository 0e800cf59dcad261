"""The process that trains `gbm`: `python -m foreshard.forecast.gbm_worker IN OUT`."""

import sys
from typing import Any

from numpy.typing import NDArray

from foreshard.forecast.child import Arrays, serve, unpacked
from foreshard.forecast.ewma import EwmaForecaster
from foreshard.forecast.gbm import next_epoch


def work(arrays: dict[str, NDArray[Any]]) -> Arrays:
    """Return the forecast of the next epoch for a packed history, and the dispersion of its counts."""
    history = unpacked(arrays)
    smoothing = EwmaForecaster().fit(history).smoothing
    expected, probability = next_epoch(history, smoothing)
    return {"expected": expected, "probability": probability, "dispersion": smoothing.dispersion}


if __name__ == "__main__":
    serve(sys.argv[1:], work)
