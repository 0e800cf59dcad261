"""The command line: what lies in a repository, whether it is intact, and the chain without an orchestrator."""

from typing import Final

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C: 128 and the signal's number, as shells have it."""


def main() -> None:
    """Run the command line."""
    try:
        from foreshard.cli.app import app  # here, so that Ctrl-C ends quietly from the first moment on

        app()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
