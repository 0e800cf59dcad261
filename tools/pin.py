"""Print the installed versions as a constraints file, without any index address."""

import importlib.metadata
import re

OPTIONAL = {"torch": "2.13.0", "ray": "2.60.0"}
"""Heavy extras that are not installed for development, pinned all the same."""

LEFT_OUT = {"foreshard", "pip", "setuptools", "wheel"}


def main() -> None:
    """Print one `name==version` a line, sorted."""
    found = {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in importlib.metadata.distributions()}
    pins = {**OPTIONAL, **{name: version for name, version in found.items() if name not in LEFT_OUT}}
    lines = ["# Every version that foreshard is developed and tested with: `make constraints` writes this file."]
    print("\n".join(lines + [f"{name}=={pins[name]}" for name in sorted(pins)]))  # noqa: T201


if __name__ == "__main__":
    main()
