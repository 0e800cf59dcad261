"""What a loader tells about itself, to people and to programs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from foreshard.prefetch.monitor import Monitor
from foreshard.prefetch.prometheus import to_prometheus

if TYPE_CHECKING:
    from foreshard.loader.live import LiveView


class Observed:
    """Something with a monitor; `rich` is imported only for whoever asks for a report or a view.

    Attributes:
        monitor: takes the figures of all batches and epochs.
    """

    monitor: Monitor

    def report(self) -> str:
        """Return tables of the epochs so far and of the last batches, with a line on what limits the loop."""
        from foreshard.loader.live import report_text

        return report_text(self.monitor.snapshot())

    def live(self) -> "LiveView":
        """Return a view to train in (`with loader.live():`): the report, redrawn on a terminal, or lines in a log."""
        from foreshard.loader.live import LiveView

        return LiveView(self.monitor)

    def prometheus(self, labels: Mapping[str, str | int] | None = None) -> str:
        """Return the figures in Prometheus' text format, each with the labels given, such as the run and the rank."""
        return to_prometheus(self.monitor.snapshot(), labels)
