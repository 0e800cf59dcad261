"""A forecaster's work in a process of its own: arrays in, arrays out, through files, with a deadline."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import foreshard
from foreshard.access.history import History
from foreshard.errors import ConfigError, DeadlineError

Arrays = Mapping[str, NDArray[Any]]


def in_child(module: str, arrays: Arrays, seconds: float) -> dict[str, NDArray[Any]]:
    """Run `python -m module` on arrays and return those that it wrote.

    Args:
        module: a module that calls `serve`.
        arrays: by name.
        seconds: until the process is killed.

    Raises:
        DeadlineError: it did not end in time.
        ConfigError: it failed; the message ends with what it said last.
    """
    with tempfile.TemporaryDirectory(prefix="foreshard-") as folder:
        given, made = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(given, **arrays)  # pyright: ignore[reportArgumentType] -- the stub takes **kwds for allow_pickle
        # -P: a file of the working directory must not stand in for a library that is imported.
        command = [sys.executable, "-P", "-m", module, str(given), str(made)]
        try:
            done = subprocess.run(  # noqa: S603 -- our own interpreter and module
                command, capture_output=True, text=True, check=False, timeout=seconds, env=environment()
            )
        except subprocess.TimeoutExpired as late:
            raise DeadlineError(
                f"{module} did not finish within {seconds:g} s and was killed; give it longer, or choose 'ewma'"
            ) from late
        if done.returncode or not made.exists():
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            raise ConfigError(f"{module} ended with {done.returncode}: {said[-1]}")
        with np.load(made) as found:
            return dict(found)


def environment() -> dict[str, str]:
    """Return a child's environment: this process's, the same foreshard, and one thread for every library."""
    path = [str(Path(foreshard.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return os.environ | threads | {"PYTHONPATH": os.pathsep.join(path)}


def serve(arguments: Sequence[str], work: Callable[[dict[str, NDArray[Any]]], Arrays]) -> None:
    """Be the child: read the arrays, work, and write what comes out. The error of a failure is the last line said."""
    given, made = arguments
    with np.load(given) as found:
        arrays = dict(found)
    np.savez(made, **work(arrays))  # pyright: ignore[reportArgumentType] -- as above


def packed(history: History) -> dict[str, NDArray[Any]]:
    """Return a history as arrays."""
    return {
        "counts": history.counts,
        "epochs": history.epochs,
        "phases": history.phases,
        "phases_per_epoch": np.array(history.phases_per_epoch),
    }


def unpacked(arrays: Arrays) -> History:
    """Return the history that `packed` took apart."""
    return History(arrays["counts"], arrays["epochs"], arrays["phases"], int(arrays["phases_per_epoch"]))
