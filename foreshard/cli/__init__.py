"""The command line: what lies in a repository, whether it is intact, and the chain without an orchestrator."""

from foreshard.cli.app import app, main

__all__ = ["app", "main"]
