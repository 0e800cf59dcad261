"""Print the installed versions as a constraints file, without any index address."""

import importlib.metadata
import re

OPTIONAL = {"ray": "2.60.0"}
"""A heavy extra that is not installed for development, pinned all the same."""

LEFT_OUT = {"foreshard", "pip", "setuptools", "wheel"}


def _public(version: str) -> str:
    """Return a version without its local part: PyTorch for the CPU alone is `+cpu`, and not on every index."""
    return version.partition("+")[0]


def main() -> None:
    """Print one `name==version` a line, sorted."""
    found = {
        re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): _public(d.version)
        for d in importlib.metadata.distributions()
    }
    pins = {**OPTIONAL, **{name: version for name, version in found.items() if name not in LEFT_OUT}}
    lines = ["# Every version that foreshard is developed and tested with: `make constraints` writes this file."]
    print("\n".join(lines + [f"{name}=={pins[name]}" for name in sorted(pins)]))  # noqa: T201


if __name__ == "__main__":
    main()
