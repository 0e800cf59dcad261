"""Logs of other systems as traces: DFTracer, CSV, Parquet, oracleGeneral and LIS."""

from foreshard.access.importers.registry import FORMATS, Imported, import_trace
from foreshard.access.importers.report import Example, Finding, Report

__all__ = ["FORMATS", "Example", "Finding", "Imported", "Report", "import_trace"]
