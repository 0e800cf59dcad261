"""The stages that lead from access logs to a published layout, runnable with or without an orchestrator."""

from foreshard.chain.boundaries import due_boundary, marker_epochs, window
from foreshard.chain.chain import Chain
from foreshard.chain.checks import CheckOutcome
from foreshard.chain.result import StageResult

__all__ = ["Chain", "CheckOutcome", "StageResult", "due_boundary", "marker_epochs", "window"]
