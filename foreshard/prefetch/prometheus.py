"""A monitor's figures in Prometheus' text format 0.0.4, for a scrape or node_exporter's textfile collector."""

import os
import re
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Final

from foreshard.errors import ConfigError
from foreshard.prefetch.monitor import EpochStats, MonitorSnapshot

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of a response that holds `to_prometheus`'s text."""

_LABEL: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_PREFIX: Final = "foreshard_loader_"
_OWN: Final = "cause"

_EPOCH_FIGURES: Final = {
    "residency_hit_rate": "Share of the last epoch's chunk uses that needed no fetch.",
    "ready_rate": "Share of the last epoch's batches that the training loop did not wait for.",
    "prefetch_accuracy": "Share of the bytes prefetched in the last epoch that were used.",
    "fraction_of_min": "Hits of the last epoch as a share of those of Belady's MIN.",
    "origin_over_min": "Bytes fetched in the last epoch over those of Belady's MIN.",
    "plan_s": "Seconds that planning the last epoch took.",
    "demand_requests": "Fetches of the last epoch that no prefetch had begun.",
    "failed_requests": "Prefetches of the last epoch that failed.",
    "disk_hits": "Chunks read from the disk tier in the last epoch.",
    "disk_bytes": "Bytes read from the disk tier in the last epoch.",
    "disk_troubles": "Times that the disk tier failed in the last epoch.",
    "peak_bytes": "Highest fill of the memory for chunks in the last epoch.",
}
_UNITS: Final = {"plan_s": "plan_seconds"}


class _Text:
    """Lines of the format, grouped by metric as it wants them."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = labels
        self.lines: list[str] = []

    def metric(self, name: str, kind: str, told: str, samples: Mapping[str, float]) -> None:
        """Add a metric with one sample, whose key is empty, or one for each cause."""
        full = _PREFIX + name
        self.lines += [f"# HELP {full} {_escape(told)}", f"# TYPE {full} {kind}"]
        for cause, value in samples.items():
            labels = {**self._labels, **({_OWN: cause} if cause else {})}
            inside = ",".join(f'{key}="{_escape(text, quoted=True)}"' for key, text in labels.items())
            self.lines.append(f"{full}{{{inside}}} {_number(value)}" if inside else f"{full} {_number(value)}")

    def counter(self, name: str, told: str, value: float) -> None:
        """Add what only goes up."""
        self.metric(name, "counter", told, {"": value})

    def gauge(self, name: str, told: str, value: float) -> None:
        """Add what goes up and down."""
        self.metric(name, "gauge", told, {"": value})


def to_prometheus(snapshot: MonitorSnapshot, labels: Mapping[str, str | int] | None = None) -> str:
    """Return a snapshot as text: counters since the monitor began, gauges of the last batches and the last epoch.

    Rates over other spans follow from the counters, as in `rate(foreshard_loader_samples_total[5m])`.

    Args:
        snapshot: from `Monitor.snapshot`.
        labels: given to every sample, such as the run and the rank; text or integers.

    Raises:
        ConfigError: a label that the format does not allow, or `cause`, which is in use, or a value of another type.
    """
    given = {name: _label(name, value) for name, value in dict(labels or {}).items()}
    for name in given:
        if _LABEL.fullmatch(name) is None or name == _OWN:
            raise ConfigError(
                f"label {name!r} cannot be used: take letters, digits and underscores, no digit first nor two "
                f"underscores, and not {_OWN!r}, which tells what was waited for"
            )
    text = _Text(given)
    _counters(text, snapshot)
    _rolling(text, snapshot)
    if snapshot.epochs:
        _last_epoch(text, snapshot.epochs[-1])
    return "\n".join(text.lines) + "\n"


def write_prometheus(path: Path, snapshot: MonitorSnapshot, labels: Mapping[str, str | int] | None = None) -> None:
    """Write a snapshot where node_exporter's textfile collector looks; readers see the old file or the new one.

    Args:
        path: a file in the collector's folder; the collector reads only those whose name ends in `.prom`.
        snapshot: from `Monitor.snapshot`.
        labels: as in `to_prometheus`; processes that write files of their own must differ in one.

    Raises:
        ConfigError: the name does not end in `.prom`, a label is not allowed, or the file cannot be written.
    """
    path = Path(path)  # whatever it was given as
    if path.suffix != ".prom":
        raise ConfigError(f"{str(path)!r} would not be collected: give a file name that ends in .prom")
    text = to_prometheus(snapshot, labels)
    staging = path.with_name(f".{path.name}.{os.getpid()}")  # a name that the collector passes over
    try:
        staging.write_text(text, encoding="utf-8")
        staging.replace(path)
    except OSError as error:
        staging.unlink(missing_ok=True)
        raise ConfigError(
            f"{str(path)!r} cannot be written: {error}; give a folder that this user may write"
        ) from error


def _counters(text: _Text, snapshot: MonitorSnapshot) -> None:
    totals = snapshot.totals
    text.counter("batches_total", "Batches that the training loop received.", totals.batches)
    text.counter("ready_batches_total", "Of those, batches that it did not wait for.", totals.ready)
    text.counter("samples_total", "Samples that the training loop received.", totals.samples)
    text.counter("touches_total", "Uses of a chunk by a batch.", totals.touches)
    text.counter("hits_total", "Of those, uses that needed no fetch.", totals.hits)
    text.counter("origin_bytes_total", "Bytes fetched into memory for the batches.", totals.origin_bytes)
    text.counter("epochs_total", "Epochs that ended.", totals.epochs)
    waits: dict[str, float] = {**totals.waits}
    text.metric("wait_seconds_total", "counter", "Seconds that the training loop waited for batches, by cause.", waits)


def _rolling(text: _Text, snapshot: MonitorSnapshot) -> None:
    last = snapshot.rolling
    text.gauge("window_batches", "Batches that the rolling figures cover.", last.batches)
    text.gauge("window_seconds", "Seconds that the rolling figures cover.", last.span_s)
    text.gauge("rolling_ready_rate", "Share of the last batches that the loop did not wait for.", last.ready_rate)
    text.gauge(
        "rolling_residency_hit_rate",
        "Share of the last batches' chunk uses that needed no fetch.",
        last.residency_hit_rate,
    )
    text.gauge("rolling_wait_share", "Share of their time in which the training loop waited.", last.wait_share)
    text.gauge("rolling_samples_per_second", "Samples a second over the last batches.", last.samples_per_s)
    text.gauge("rolling_origin_bytes_per_second", "Bytes fetched a second over the last batches.", last.bytes_per_s)
    text.gauge("memory_budget_bytes", "Memory for chunks.", snapshot.budget)


def _last_epoch(text: _Text, stats: EpochStats) -> None:
    figures = stats.figures()
    text.gauge("epoch", "The last epoch that ended.", stats.epoch)
    for name, told in _EPOCH_FIGURES.items():
        text.gauge(f"epoch_{_UNITS.get(name, name)}", told, figures[name])


def _label(name: object, value: object) -> str:
    """Return a label's value as text."""
    if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, (str, Integral)):
        raise ConfigError(f"label {name!r} has the value {value!r}; give text, {{'run': 'first'}}, or an integer")
    return str(value)


def _number(value: float) -> str:
    """Return a number as Go's ParseFloat reads it, integers without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _escape(text: str, *, quoted: bool = False) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
    return escaped.replace('"', '\\"') if quoted else escaped
