"""What a layout costs per epoch: seconds of I/O that memory does not save, and upkeep per chunk."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from foreshard.errors import PlanError

_QUICK: Final = 0.1
_MIN_EVENTS: Final = 20
_BINS: Final = 32
_MIN_LATENCY_S: Final = 1e-6


@dataclass(frozen=True)
class CostModel:
    """Prices of reading.

    Attributes:
        latency_s: seconds a request takes before its first byte.
        bandwidth: bytes per second after that.
        memory_bytes: memory for chunks, all nodes together.
        chunk_overhead_s: seconds charged per chunk and epoch for keeping it at all.

    Raises:
        PlanError: a negative price, or no bandwidth.
    """

    latency_s: float
    bandwidth: float
    memory_bytes: float
    chunk_overhead_s: float

    def __post_init__(self) -> None:
        if not self.bandwidth > 0:
            raise PlanError(f"bandwidth is {self.bandwidth} bytes/s; it must be above 0")
        for name in ("latency_s", "memory_bytes", "chunk_overhead_s"):
            if not getattr(self, name) >= 0:
                raise PlanError(f"{name} is {getattr(self, name)}; it must be at least 0")

    def fetch_s(self, nbytes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the seconds that one request of each size takes."""
        return self.latency_s + nbytes / self.bandwidth


@dataclass(frozen=True)
class LayoutCost:
    """Expected cost of one epoch.

    Attributes:
        requests: fetches that memory does not save.
        bytes: bytes of those fetches.
        seconds: time of those fetches, one after another.
        upkeep_s: overhead of all chunks.
        resident_bytes: what memory holds.
        chunks: number of chunks.
    """

    requests: float
    bytes: float
    seconds: float
    upkeep_s: float
    resident_bytes: float
    chunks: int

    @property
    def total_s(self) -> float:
        """Seconds of I/O and upkeep: what sizing and planning minimise."""
        return self.seconds + self.upkeep_s


def expected_touches(chunk_heat: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Return how many of an epoch's steps are expected to touch each chunk: T (1 - exp(-h / T)).

    Args:
        chunk_heat: expected draws of each chunk's samples, any shape.
        steps: T, optimizer steps per epoch.

    Raises:
        PlanError: `steps` is below 1.
    """
    if steps < 1:
        raise PlanError(f"steps is {steps}; an epoch has at least 1")
    return -steps * np.expm1(-np.asarray(chunk_heat, np.float64) / steps)


def resident_chunks(
    touches: NDArray[np.float64], chunk_bytes: NDArray[np.float64], memory_bytes: float
) -> NDArray[np.bool_]:
    """Return which chunks a static memory holds: most touches per byte first, as long as the next one fits.

    Args:
        touches: shape (C,) expected touches per epoch.
        chunk_bytes: shape (C,), above 0.
        memory_bytes: what fits.

    Returns:
        Shape (C,) of bool.
    """
    order = np.argsort(-touches / chunk_bytes, kind="stable")
    resident = np.zeros(len(touches), np.bool_)
    resident[order] = np.cumsum(chunk_bytes[order]) <= memory_bytes
    return resident & (touches > 0)


def layout_cost(
    chunk_heat: NDArray[np.float64],
    chunk_bytes: NDArray[np.float64],
    steps: int,
    cost: CostModel,
    *,
    error: float = 0.0,
) -> LayoutCost:
    """Return the expected cost of an epoch under the static residency model.

    Memory holds the chunks with the most touches per byte; every touch of another chunk is one fetch of all its bytes.
    As far as the forecast errs, memory holds an arbitrary share of the data instead of the best one: what residents
    save is `1 - error` parts the forecast's figure and `error` parts that of memory filled at random.

    Args:
        chunk_heat: shape (C,) expected draws per epoch.
        chunk_bytes: shape (C,), above 0.
        steps: optimizer steps per epoch.
        cost: prices.
        error: relative error of the forecast, in [0, 1].

    Raises:
        PlanError: `error` is outside [0, 1], or `steps` is below 1.
    """
    if not 0 <= error <= 1:
        raise PlanError(f"forecast error is {error}; it must be in [0, 1]")
    sizes = np.asarray(chunk_bytes, np.float64)
    touches = expected_touches(chunk_heat, steps)
    resident = resident_chunks(touches, sizes, cost.memory_bytes)
    total_bytes = float(sizes.sum())
    random_share = min(1.0, cost.memory_bytes / total_bytes) if total_bytes else 0.0

    def missed(value: NDArray[np.float64]) -> float:
        everything, saved = float(value.sum()), float(value[resident].sum())
        return everything - (1 - error) * saved - error * min(saved, random_share * everything)

    return LayoutCost(
        requests=missed(touches),
        bytes=missed(touches * sizes),
        seconds=missed(touches * cost.fetch_s(sizes)),
        upkeep_s=cost.chunk_overhead_s * len(sizes),
        resident_bytes=float(sizes[resident].sum()),
        chunks=len(sizes),
    )


def fit_cost_model(
    events: pa.Table | None,
    *,
    memory_bytes: float,
    chunk_overhead_s: float,
    default_latency_s: float = 1e-3,
    default_bandwidth: float = 200e6,
) -> CostModel:
    """Measure latency and bandwidth from the fetches in an access log.

    The line time = latency + bytes / bandwidth is fitted to the first decile of fetches binned by size: the slower
    ones waited for threads and cores of the training process itself, which another layout would not change. The slope
    is the median slope between bins (Theil, 1950; Sen, JASA 1968). Where sizes hardly differ, or time does not grow
    with size, only the latency is measured and the bandwidth stays the default.

    Args:
        events: columns `hit` (bool), `bytes` and `fetch_us`; None or fewer than 20 fetches give the defaults.
        memory_bytes: memory for chunks, all nodes together.
        chunk_overhead_s: seconds charged per chunk and epoch.
        default_latency_s: latency without measurements.
        default_bandwidth: bandwidth without measurements.
    """
    if events is not None:
        columns = {name: events.column(name).to_numpy() for name in ("hit", "bytes", "fetch_us")}
        missed = ~columns["hit"].astype(np.bool_) & (columns["fetch_us"] > 0)
        sizes = np.asarray(columns["bytes"][missed], np.float64)
        seconds = np.asarray(columns["fetch_us"][missed], np.float64) * 1e-6
        if len(sizes) >= _MIN_EVENTS:
            latency, bandwidth = _fit_line(sizes, seconds, default_bandwidth)
            return CostModel(latency, bandwidth, memory_bytes, chunk_overhead_s)
    return CostModel(default_latency_s, default_bandwidth, memory_bytes, chunk_overhead_s)


def _fit_line(
    sizes: NDArray[np.float64], seconds: NDArray[np.float64], default_bandwidth: float
) -> tuple[float, float]:
    by_size = np.argsort(sizes, kind="stable")
    bins = np.array_split(by_size, min(_BINS, len(sizes) // 5))
    x = np.array([np.median(sizes[members]) for members in bins])
    y = np.array([np.quantile(seconds[members], _QUICK) for members in bins])
    rise, run = y[None, :] - y[:, None], x[None, :] - x[:, None]
    apart = run > 0.1 * x.max()
    slope = float(np.median(rise[apart] / run[apart])) if apart.any() else 0.0
    if slope <= 0:
        slope = 1 / default_bandwidth
    return max(_MIN_LATENCY_S, float(np.quantile(seconds - slope * sizes, _QUICK))), 1 / slope
