"""What a monitor knows, for people: a report in tables, and a view that follows a training loop."""

from collections.abc import Sequence
from threading import Event, Thread
from types import TracebackType
from typing import Final, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from foreshard.prefetch.monitor import CAUSES, EpochStats, Monitor, MonitorSnapshot
from foreshard.prefetch.rolling import Rolling

_EVERY_S: Final = 0.5
_SHOWN: Final = 20
_MEGA: Final = 1e6
_ATTRIBUTED: Final = 1e-9
"""Seconds below which what is left of a wait after its causes is rounding."""


def render_report(snapshot: MonitorSnapshot, *, epochs: int = _SHOWN) -> RenderableType:
    """Return the figures of the last epochs and batches as tables that fit a terminal of 80 columns.

    Args:
        snapshot: from `Monitor.snapshot`.
        epochs: how many epochs to show.
    """
    shown = snapshot.epochs[-epochs:]
    parts: list[RenderableType] = []
    if shown:
        parts += [_reached(shown), _waited(shown), _moved(shown, snapshot.budget)]
    if snapshot.rolling.batches:
        parts.append(_last_batches(snapshot.rolling))
    return Group(*parts) if parts else Text("nothing was read yet")


def epoch_line(stats: EpochStats, budget: int) -> str:
    """Return an epoch's figures as a line for a log.

    Args:
        stats: the epoch.
        budget: bytes of memory for chunks; 0 if not known.
    """
    waits = ", ".join(f"{name} {seconds:.1f}" for name, seconds in _waits(stats) if seconds)
    waited = f"waited {stats.wait_s:.1f} s ({waits})" if waits else f"waited {stats.wait_s:.1f} s"
    peak = _mega(stats.peak_bytes) + (f" of {_mega(budget)}" if budget else "")
    hits, nbytes = _share(stats.fraction_of_min), f"{stats.origin_over_min:.3f}" if stats.min_bytes else "?"
    return (
        f"epoch {stats.epoch}: {stats.steps:,} batches, ready {_share(stats.ready_rate)}, residency "
        f"{_share(stats.residency_hit_rate)}, accuracy {_share(stats.prefetch_accuracy)}, {hits} of MIN's hits, "
        f"{nbytes} times its bytes, {waited}, fetched {_mega(stats.origin_bytes)} MB, peak {peak} MB"
    )


class LiveView:
    """Shows a monitor's figures while a block runs, from a thread of its own.

    On a terminal it is redrawn in place, and the last state stays. Elsewhere, as in a batch job's log, every epoch that
    ends is a line, or nothing at all.

    Args:
        monitor: what to show.
        console: where; standard error by default.
        every: seconds between two looks at the monitor.
        lines: whether epochs are lines where there is no terminal.
    """

    def __init__(
        self, monitor: Monitor, *, console: Console | None = None, every: float = _EVERY_S, lines: bool = True
    ) -> None:
        self._monitor, self._every, self._lines = monitor, every, lines
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._thread: Thread | None = None
        self._over = Event()
        self._told = monitor.snapshot().totals.epochs

    def __enter__(self) -> Self:
        self._over.clear()
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=lambda: render_report(self._monitor.snapshot()),
                console=self._console,
                refresh_per_second=1 / self._every,
            )
            self._live.start(refresh=True)
        elif self._lines:
            self._thread = Thread(target=self._follow, name="foreshard-view", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._live is not None:
            self._live.stop()  # draws the last state
            self._live = None
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _follow(self) -> None:
        while not self._over.wait(self._every):
            self._print_new()
        self._print_new()

    def _print_new(self) -> None:
        snapshot = self._monitor.snapshot()
        new, self._told = snapshot.totals.epochs - self._told, snapshot.totals.epochs
        for stats in snapshot.epochs[-new:] if new else ():
            self._console.print(epoch_line(stats, snapshot.budget), soft_wrap=True, markup=False, highlight=False)


# -- tables --------------------------------------------------------------------------------------------


def _reached(epochs: Sequence[EpochStats]) -> Table:
    table = _table(
        "What was reached",
        ("epoch", "batches", "samples", "ready", "residency", "accuracy", "MIN hits", "MIN bytes"),
        "ready: of batches, not waited for. residency: of chunk uses, without a fetch. accuracy: of prefetched bytes, "
        "used. MIN: hits as a share of those of Belady's MIN, and bytes fetched over those it would fetch.",
    )
    for stats in epochs:
        rates = (stats.ready_rate, stats.residency_hit_rate, stats.prefetch_accuracy, stats.fraction_of_min)
        least = f"{stats.origin_over_min:.3f}x" if stats.min_bytes else "-"
        counts = (f"{stats.epoch}", f"{stats.steps:,}", f"{stats.samples:,}")
        table.add_row(*counts, *map(_share, rates), least)
    return table


def _waited(epochs: Sequence[EpochStats]) -> Table:
    rest = any(dict(_waits(stats)).get("other") for stats in epochs)
    causes = (*CAUSES, "other") if rest else CAUSES
    table = _table("Seconds before and between batches", ("epoch", "planned", "waited", *causes))
    for stats in epochs:
        waits = dict(_waits(stats))
        seconds = (stats.plan_s, stats.wait_s, *(waits.get(cause, 0.0) for cause in causes))
        table.add_row(f"{stats.epoch}", *map(_seconds, seconds))
    return table


def _moved(epochs: Sequence[EpochStats], budget: int) -> Table:
    of = f"peak of {_mega(budget)}" if budget else "peak"
    table = _table("MB", ("epoch", "fetched", "MIN would", "requests", "on demand", "failed", of))
    for stats in epochs:
        least = _mega(stats.min_bytes) if stats.min_bytes else "-"
        counts = (stats.origin_requests, stats.demand_requests, stats.failed_requests)
        figures = (_mega(stats.origin_bytes), least, *(f"{count:,}" for count in counts), _mega(stats.peak_bytes))
        table.add_row(f"{stats.epoch}", *figures)
    return table


def _last_batches(last: Rolling) -> Table:
    names = ("samples/s", "MB/s", "ready", "residency", "waited", *CAUSES)
    table = _table(f"The last {last.batches:,} batches, {last.span_s:,.1f} s", names)
    shares = map(_share, (last.ready_rate, last.residency_hit_rate))
    waits = map(_seconds, (last.wait_s, *(last.waits[cause] for cause in CAUSES)))
    table.add_row(f"{last.samples_per_s:,.0f}", _mega(last.bytes_per_s), *shares, *waits)
    return table


def _table(title: str, columns: Sequence[str], caption: str | None = None) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True, overflow="ellipsis")
    return table


# -- values --------------------------------------------------------------------------------------------


def _waits(stats: EpochStats) -> list[tuple[str, float]]:
    """Return seconds waited by cause, and what no cause was given for as `other`."""
    waits: list[tuple[str, float]] = list(stats.waits.items())
    rest = stats.wait_s - sum(seconds for _, seconds in waits)
    return [*waits, ("other", rest)] if rest > _ATTRIBUTED else waits


def _share(value: float) -> str:
    return f"{value:.1%}"


def _seconds(value: float) -> str:
    return f"{value:,.2f}" if value else "-"


def _mega(value: float) -> str:
    return f"{value / _MEGA:,.1f}"
