"""Recompute the golden file of seeds and draws under many numpy versions, each in a virtual environment of its own.

`python tools/golden_over_numpy.py` prints a table of numpy and Python versions and exits with 1 if any differs. Wheels
come through uv or pip as they are configured; nothing is left behind.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
GOLDEN: Final = ROOT / "tests" / "base" / "golden_seeding.json"

VERSIONS: Final = {"1.23.5": 11, "1.26.4": 12, "2.0.2": 12, "2.2.6": 13, "2.4.6": 14}
"""numpy versions, and the newest Python 3.x that each has wheels for."""

FEWEST: Final = 4
"""Versions that must have been tried for the result to mean anything."""

_DECODE: Final[dict[str, Any]] = {"str": str, "int": int, "bool": bool, "bytes": bytes.fromhex}


class FailedEnvironmentError(RuntimeError):
    """An environment could not be made; the message says which, and what the installer said."""


# -- in each environment -------------------------------------------------------------------------------
def recompute(golden: dict[str, Any]) -> dict[str, Any]:
    """Return the golden file as this numpy and this source make it from the inputs that it names."""
    # Splits are computed with numpy alone; Arrow, which no environment here has, only stores them.
    sys.modules.setdefault("pyarrow", types.ModuleType("pyarrow"))
    from foreshard.seeding import ALGORITHM_VERSION

    return {
        "algorithm_version": ALGORITHM_VERSION,
        "derive_seed": [_seed(case["fields"]) for case in golden["derive_seed"]],
        "derive_seeds": _many_seeds(golden["derive_seeds"]),
        "row_keys": _row_keys(golden["row_keys"]),
        "uniforms": _uniforms(golden["uniforms"]),
        "permutation": _permutation(golden["permutation"]),
        "raw_words": _raw_words(golden["raw_words"]),
        "integers": [_integers(case) for case in golden["integers"]],
        "shuffle": _shuffle(golden["shuffle"]),
        "choose": [_choose(case) for case in golden["choose"]],
        "splits": _splits(golden["splits"]),
        "hash_keys": _hash_keys(golden["hash_keys"]),
    }


def _sha256(values: Any, dtype: str) -> str:  # noqa: ANN401 - an array of any type
    import numpy as np

    return hashlib.sha256(np.ascontiguousarray(values, dtype).tobytes()).hexdigest()


def _state(case: dict[str, Any]) -> Any:  # noqa: ANN401 - of a module that is imported late
    from foreshard.seeding import PrngState

    return PrngState(bytes.fromhex(case["seed"]), case.get("position", 0))


def _seed(fields: list[list[Any]]) -> dict[str, Any]:
    from foreshard.seeding import canonical_bytes, derive_seed

    named = {name: _DECODE[kind](value) for name, kind, value in fields}
    return {"fields": fields, "canonical": canonical_bytes(named).hex(), "seed": derive_seed(**named).hex()}


def _many_seeds(case: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from foreshard.seeding import derive_seeds, row_keys_of

    values = np.frombuffer(bytes.fromhex("".join(case["values"])), np.uint8).reshape(len(case["values"]), -1)
    seeds = derive_seeds(case["name"], values, **case["fields"])
    which = np.array(case["which"], np.int64)
    keys = row_keys_of(seeds, which, np.array(case["sample_ids"], np.int64))
    return {**case, "seeds": [row.tobytes().hex() for row in seeds], "keys": [f"{key:016x}" for key in keys.tolist()]}


def _row_keys(case: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from foreshard.seeding import row_keys

    seed = bytes.fromhex(case["seed"])
    keys = row_keys(seed, np.array(case["sample_ids"], np.int64)).tolist()
    big = _sha256(row_keys(seed, np.arange(case["n_big"])), "<u8")
    return {**case, "keys": [f"{key:016x}" for key in keys], "sha256_big": big}


def _uniforms(case: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from foreshard.seeding import uniforms

    values = uniforms(bytes.fromhex(case["seed"]), np.array(case["positions"], np.int64)).tolist()
    return {**case, "values": [value.hex() for value in values]}


def _permutation(case: dict[str, Any]) -> dict[str, Any]:
    from foreshard.seeding import PrngState, permutation

    order, after = permutation(_state(case), case["n"])
    big, _ = permutation(PrngState(bytes.fromhex(case["seed"])), case["n_big"])
    return {**case, "order": order.tolist(), "state": after.to_json(), "sha256_big": _sha256(big, "<i8")}


def _raw_words(case: dict[str, Any]) -> dict[str, Any]:
    from foreshard.seeding import raw_words

    words, after = raw_words(_state(case), case["n"])
    return {**case, "words": [f"{word:016x}" for word in words.tolist()], "state": after.to_json()}


def _integers(case: dict[str, Any]) -> dict[str, Any]:
    from foreshard.draws import integers

    values, after = integers(_state(case), int(case["bound"]), case["n"])
    big, _ = integers(_state(case), int(case["bound"]), case["n_big"])
    return {**case, "values": values.tolist(), "state": after.to_json(), "sha256_big": _sha256(big, "<i8")}


def _shuffle(case: dict[str, Any]) -> dict[str, Any]:
    from foreshard.draws import shuffle

    order, after = shuffle(_state(case), case["n"])
    big, _ = shuffle(_state(case), case["n_big"])
    return {**case, "order": order.tolist(), "state": after.to_json(), "sha256_big": _sha256(big, "<i8")}


def _choose(case: dict[str, Any]) -> dict[str, Any]:
    from foreshard.draws import choose

    chosen, after = choose(_state(case), int(case["n"]), case["k"])
    return {**case, "chosen": chosen.tolist(), "state": after.to_json()}


def _splits(case: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from foreshard.splits import assign_splits

    codes = assign_splits(np.arange(case["n"]), case["fractions"], case["root"])
    counts = np.bincount(codes).tolist()
    return {**case, "first": codes[:40].tolist(), "counts": counts, "sha256": _sha256(codes, "u1")}


def _hash_keys(case: dict[str, Any]) -> dict[str, Any]:
    from foreshard.splits import hash_keys

    return {**case, "keys": hash_keys(case["values"]).tolist()}


def _report() -> None:
    """Print, as JSON, the versions here and the parts of the golden file that come out otherwise."""
    import numpy as np

    golden = json.loads(GOLDEN.read_text())
    found = recompute(golden)
    differs = sorted(part for part in golden.keys() | found.keys() if golden.get(part) != found.get(part))
    print(json.dumps({"numpy": np.__version__, "python": sys.version.split()[0], "differs": differs}))  # noqa: T201


# -- making the environments ---------------------------------------------------------------------------
def interpreters() -> list[tuple[str, int]]:
    """Return this Python and the others from 3.11 on that PATH has and that run, each with its minor version."""
    found = {sys.version_info.minor: sys.executable}
    for minor in sorted({*range(11, 15)} - found.keys()):
        path = shutil.which(f"python3.{minor}")
        # A shim of pyenv stands on PATH for versions that are installed and not switched on.
        if path and not subprocess.run([path, "-c", "import venv"], capture_output=True, check=False).returncode:  # noqa: S603
            found[minor] = path
    return [(path, minor) for minor, path in sorted(found.items())]


def _install(python: Path, requirement: str) -> None:
    """Install a wheel with uv, or with pip where uv is missing or cannot reach the index that pip is configured for."""
    environment = {**os.environ}
    environment.setdefault("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", ""))
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    wheel = ["--quiet", "--only-binary", ":all:", requirement]
    commands = [[uv, "pip", "install", "--python", str(python), *wheel]] if uv else []
    commands.append([sys.executable, "-m", "pip", "--python", str(python), "install", *wheel])
    said: list[str] = []
    for command in commands:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode == 0:
            return
        said.append(done.stderr.strip()[-500:])
    raise FailedEnvironmentError(
        f"cannot install {requirement}: is a Python package index configured for pip and reachable? The installers "
        f"said: {' | '.join(said)}"
    )


def check(interpreter: str, version: str, folder: Path) -> dict[str, Any]:
    """Recompute the golden file with one Python and one numpy version; return what `_report` prints.

    Raises:
        FailedEnvironmentError: the environment cannot be made, or the computation fails in it.
    """
    subprocess.run([interpreter, "-m", "venv", "--without-pip", str(folder)], check=True)  # noqa: S603
    python = folder / "bin" / "python"
    _install(python, f"numpy=={version}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(python), str(Path(__file__).resolve()), "--here"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise FailedEnvironmentError(f"numpy {version} on {interpreter} failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)


def main() -> int:
    """Check every pair of versions; return 0 if all agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--here", action="store_true", help="recompute with the numpy that is installed; print JSON")
    if parser.parse_args().here:
        _report()
        return 0
    pairs = [(path, version) for path, minor in interpreters() for version, last in VERSIONS.items() if minor <= last]
    bad: list[str] = []
    tried: set[str] = set()
    print(f"{'numpy':<10} {'python':<10} result")  # noqa: T201
    with tempfile.TemporaryDirectory(prefix="golden-") as home:
        for number, (path, version) in enumerate(pairs):
            try:
                found = check(path, version, Path(home) / str(number))
            except FailedEnvironmentError as error:
                print(f"{version:<10} {Path(path).name:<10} no result: {error}")  # noqa: T201
                bad.append(version)
                continue
            tried.add(found["numpy"])
            result = "differs in " + ", ".join(found["differs"]) if found["differs"] else "ok"
            print(f"{found['numpy']:<10} {found['python']:<10} {result}")  # noqa: T201
            bad += [version] if found["differs"] else []
    if len(tried) < FEWEST:
        print(f"only {len(tried)} numpy versions could be tried, {FEWEST} are needed")  # noqa: T201
    return int(bool(bad) or len(tried) < FEWEST)


if __name__ == "__main__":
    sys.exit(main())
