"""What a monitor knows, for people: a report in tables, and a view that follows a training loop."""

import io
import sys
from collections.abc import Sequence
from textwrap import wrap
from threading import Event, Thread
from types import TracebackType
from typing import Final, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from foreshard.loader.limits import limit_of
from foreshard.prefetch.monitor import CAUSES, EpochStats, Monitor, MonitorSnapshot
from foreshard.prefetch.rolling import Rolling

_EVERY_S: Final = 0.5
_SHOWN: Final = 5
_WIDTH: Final = 100
_AROUND: Final = 4
"""Lines of a table beside its rows: an empty one, title, header and rule."""
_LEGEND: Final = (
    "ready: share of batches that were there when the loop asked. residency: share of chunk uses that needed no fetch. "
    "accuracy: share of prefetched bytes that were used. hits/MIN, bytes/MIN: hits and fetched bytes over those of "
    "Belady's MIN (it knows all uses and evicts what is used last) on the same uses with the same memory, or the "
    "loader's own where those are better: MIN is the least there can be for chunks of one size, and no bound for "
    "others. fetch: chunks on their way. decode: rows being gathered, decoded or transformed. throttle: the store "
    "asked for fewer requests. queue: no turn."
)
_MEGA: Final = 1e6


def report_text(snapshot: MonitorSnapshot, *, width: int = _WIDTH) -> str:
    """Return the figures as plain text: what `render_report` shows, of as many epochs as are known.

    Args:
        snapshot: from `Monitor.snapshot`.
        width: columns.
    """
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, highlight=False)
    with console.capture() as captured:
        console.print(render_report(snapshot, epochs=len(snapshot.epochs)))
        if snapshot.epochs:
            console.print(Text(f"\n{_LEGEND}"))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")


def render_report(
    snapshot: MonitorSnapshot, *, epochs: int = _SHOWN, height: int | None = None, width: int = _WIDTH
) -> RenderableType:
    """Return where the loop stands, what limits it, and the figures of the last batches and epochs.

    The tables fit a terminal of 80 columns.

    Args:
        snapshot: from `Monitor.snapshot`.
        epochs: how many epochs to show.
        height: lines there are: tables that do not fit are left out, the last first; None for all.
        width: columns there are.
    """
    lines = [line for line in (_stands(snapshot), _altogether(snapshot), limit_of(snapshot), _failed(snapshot)) if line]
    if not snapshot.totals.batches and not snapshot.epochs:
        return Text(lines[0] if snapshot.running else "nothing was read yet")
    shown = snapshot.epochs[-epochs:] if epochs else ()
    tables = [_last_batches(snapshot.rolling)] if snapshot.rolling.batches else []
    if shown:
        tables += [_reached(shown), _waited(shown), _moved(shown, snapshot.budget)]
        if any(_used_disk(stats) for stats in shown):
            tables.append(_on_disk(shown))
    parts: list[RenderableType] = [Text("\n".join(lines))]
    left = sys.maxsize if height is None else height - sum(len(wrap(line, width)) for line in lines)
    for table in tables:
        left -= _AROUND + table.row_count
        if left < 0:
            break
        parts += ["", table]
    return Group(*parts)


def epoch_line(stats: EpochStats, budget: int) -> str:
    """Return an epoch's figures as a line for a log.

    Args:
        stats: the epoch.
        budget: bytes of memory for chunks; 0 if not known.
    """
    waits = ", ".join(f"{name} {seconds:.1f}" for name, seconds in stats.waits.items() if seconds)
    waited = f"waited {stats.wait_s:.1f} s ({waits})" if waits else f"waited {stats.wait_s:.1f} s"
    peak = _mega(stats.peak_bytes) + (f" of {_mega(budget)}" if budget else "")
    hits, nbytes = _share(stats.fraction_of_min), f"{stats.origin_over_min:.3f}" if _min_known(stats) else "?"
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
                get_renderable=self._render,
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

    def _render(self) -> RenderableType:
        size = self._console.size
        # The last state scrolls, so that it may be as long as it is.
        height = None if self._over.is_set() else size.height - 1
        return render_report(self._monitor.snapshot(), height=height, width=size.width)

    def _follow(self) -> None:
        while not self._over.wait(self._every):
            self._print_new()
        self._print_new()

    def _print_new(self) -> None:
        snapshot = self._monitor.snapshot()
        new, self._told = snapshot.totals.epochs - self._told, snapshot.totals.epochs
        for stats in snapshot.epochs[-new:] if new else ():
            self._console.print(epoch_line(stats, snapshot.budget), soft_wrap=True, markup=False, highlight=False)


# -- lines ---------------------------------------------------------------------------------------------


def _stands(snapshot: MonitorSnapshot) -> str:
    """Return where the epoch under way stands, and when it ends if it goes on as it did; nothing if none is."""
    running, last = snapshot.running, snapshot.rolling
    if running is None:
        return ""
    done = running.done / running.steps if running.steps else 1.0
    told = f"Epoch {running.epoch}: {running.done:,} of {running.steps:,} batches ({done:.0%})"
    if last.span_s and running.done:
        told += f", about {_duration((running.steps - running.done) * last.span_s / (last.batches - 1))} left"
    return told


def _altogether(snapshot: MonitorSnapshot) -> str:
    totals = snapshot.totals
    epochs = "1 epoch" if totals.epochs == 1 else f"{totals.epochs:,} epochs"
    return (
        f"Altogether: {epochs}, {totals.batches:,} batches, {totals.samples:,} samples, "
        f"{_mega(totals.origin_bytes)} MB fetched, {sum(totals.waits.values()):,.1f} s waited"
    )


def _failed(snapshot: MonitorSnapshot) -> str:
    return f"The disk tier failed the last time as {snapshot.trouble}" if snapshot.trouble else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# -- tables --------------------------------------------------------------------------------------------


def _reached(epochs: Sequence[EpochStats]) -> Table:
    names = ("epoch", "batches", "samples/s", "ready", "residency", "accuracy", "hits/MIN", "bytes/MIN")
    table = _table("What the epochs reached", names)
    for stats in epochs:
        rates = (stats.ready_rate, stats.residency_hit_rate, stats.prefetch_accuracy, stats.fraction_of_min)
        least = f"{stats.origin_over_min:.3f}x" if _min_known(stats) else "-"
        counts = (f"{stats.epoch}", f"{stats.steps:,}", f"{stats.samples_per_s:,.0f}")
        table.add_row(*counts, *map(_share, rates), least)
    return table


def _waited(epochs: Sequence[EpochStats]) -> Table:
    table = _table("Where their time went, in seconds", ("epoch", "total", "planning", "own steps", "waiting", *CAUSES))
    for stats in epochs:
        seconds = (stats.total_s, stats.plan_s, stats.loop_s, stats.wait_s, *stats.waits.values())
        table.add_row(f"{stats.epoch}", *map(_seconds, seconds))
    return table


def _moved(epochs: Sequence[EpochStats], budget: int) -> Table:
    of = f"peak of {_mega(budget)}" if budget else "peak"
    table = _table("What they moved, in MB", ("epoch", "fetched", "MIN would", "requests", "on demand", "failed", of))
    for stats in epochs:
        least = _mega(stats.min_bytes) if _min_known(stats) else "-"
        counts = (stats.origin_requests, stats.demand_requests, stats.failed_requests)
        figures = (_mega(stats.origin_bytes), least, *(f"{count:,}" for count in counts), _mega(stats.peak_bytes))
        table.add_row(f"{stats.epoch}", *figures)
    return table


def _on_disk(epochs: Sequence[EpochStats]) -> Table:
    names = ("epoch", "read MB", "store MB", "hits", "written", "awaited", "evicted", "damaged", "troubles")
    table = _table("What the disk tier did, in chunks", names)
    for stats in epochs:
        counts = (
            stats.disk_hits,
            stats.disk_written,
            stats.disk_awaited,
            stats.disk_evicted,
            stats.disk_damaged,
            stats.disk_troubles,
        )
        moved = (_mega(stats.disk_bytes), _mega(stats.store_bytes))
        table.add_row(f"{stats.epoch}", *moved, *(f"{count:,}" for count in counts))
    return table


def _used_disk(stats: EpochStats) -> bool:
    return bool(stats.disk_hits or stats.disk_written or stats.disk_troubles)


def _last_batches(last: Rolling) -> Table:
    names = ("samples/s", "MB/s", "ready", "residency", "waiting", *CAUSES)
    many = "batch" if last.batches == 1 else f"{last.batches:,} batches"
    table = _table(f"The last {many}, in {last.span_s:,.1f} s; waits in seconds", names)
    shares = map(_share, (last.ready_rate, last.residency_hit_rate))
    waits = map(_seconds, (last.wait_s, *(last.waits[cause] for cause in CAUSES)))
    table.add_row(f"{last.samples_per_s:,.0f}", _mega(last.bytes_per_s), *shares, *waits)
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True, overflow="ellipsis")
    return table


# -- values --------------------------------------------------------------------------------------------


def _min_known(stats: EpochStats) -> bool:
    """Whether MIN's bytes are known; of an epoch that fetched nothing they are 0."""
    return bool(stats.min_bytes or not stats.origin_bytes)


def _share(value: float) -> str:
    return f"{value:.1%}"


def _seconds(value: float) -> str:
    return f"{value:,.2f}" if value else "-"


def _mega(value: float) -> str:
    return f"{value / _MEGA:,.1f}"
