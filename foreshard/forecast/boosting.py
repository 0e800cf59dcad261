"""LightGBM behind one function, whether it can be had, and why it never shares a process with torch.

Both bring an OpenMP runtime. With two copies in a process, torch was seen to stall for good (research/forecast.md §2b).
As torch may be imported at any later time, LightGBM always has a process of its own.
"""

import functools
import importlib.util
import subprocess
import sys
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foreshard.forecast.child import environment

TREES: Final = 60
SEED: Final = 1

_LEAF_ROWS: Final = 200
_LEAST_LEAF_ROWS: Final = 5
_PROBE_SECONDS: Final = 120
_PROBE: Final = """
from foreshard.forecast.boosting import load
try:
    load()
except OSError as error:
    print(error)
"""
# One thread: sums of gradients depend on how rows are dealt to threads, and forecasts must not.
_PARAMETERS: Final[dict[str, Any]] = {
    "learning_rate": 0.1,
    "num_leaves": 8,
    "lambda_l2": 5.0,
    "max_bin": 63,
    "seed": SEED,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}


def boost(objective: str, columns: NDArray[np.float32], start: NDArray[np.float64], target: NDArray[np.float64]) -> Any:  # noqa: ANN401 -- lightgbm has no types
    """Return a booster whose raw score corrects `start`; the same bits for the same rows, whatever the thread count.

    Leaves are few and hold many rows, as what is left of counts beside the moving average is noise for the most part.
    Where no target is above 0 there is nothing to tell rows apart by: the booster is None, and `start` stands.

    Args:
        objective: of LightGBM.
        columns: shape (n, F).
        start: shape (n,), raw score that the first tree begins with.
        target: shape (n,).
    """
    if not target.any():
        return None
    lightgbm = load()
    parameters = _PARAMETERS | {
        "objective": objective,
        "min_data_in_leaf": max(_LEAST_LEAF_ROWS, min(_LEAF_ROWS, len(target) // 100)),
    }
    table = lightgbm.Dataset(columns, target, init_score=start, params=parameters)
    return lightgbm.train(parameters, table, num_boost_round=TREES)


def load() -> Any:  # noqa: ANN401 -- lightgbm has no types
    """Return LightGBM, for a process that does nothing else.

    Without pandas and scikit-learn, which nothing here needs, it loads in a third of the time.

    Raises:
        OSError: its library cannot be loaded.
    """
    modules: dict[str, Any] = sys.modules
    for name in ("pandas", "sklearn", "matplotlib"):
        modules.setdefault(name, None)
    import lightgbm

    return lightgbm


def lightgbm_trouble() -> str | None:
    """Return why LightGBM cannot be used on this machine, with the fix; None if it can."""
    if importlib.util.find_spec("lightgbm") is None:
        return "LightGBM is not installed: pip install 'foreshard[plan]'"
    return _trouble_in_child()


@functools.cache
def _trouble_in_child() -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 -- our own interpreter and code
            [sys.executable, "-P", "-c", _PROBE],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROBE_SECONDS,
            env=environment(),
        )
    except subprocess.TimeoutExpired:
        return f"a process that loads LightGBM was not ready within {_PROBE_SECONDS} s: check the machine's load"
    if done.returncode:
        return f"a process that loads LightGBM ended with {done.returncode}: {done.stderr.strip()[-300:]}"
    said = done.stdout.strip()
    return f"LightGBM's library cannot be loaded ({said}): apt-get install libgomp1" if said else None
