"""What to change, by what the doctor measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from foreshard.loader.doctor.findings import PARTS, Case, Diagnosis, Part
from foreshard.prefetch.monitor import EpochStats

WORTH: Final = 0.05
"""Share of a step below which a stall is not worth a change."""
_REFETCHED: Final = 0.1
_SMALL_FETCH: Final = 256 * 1024
_AMPLIFIED: Final = 3.0
_SCATTERED: Final = 0.25
_MANY_COLUMNS: Final = 8
_KILO: Final = 1e3
_MEGA: Final = 1e6


@dataclass(frozen=True)
class Advice:
    """One thing to change, or to know.

    Attributes:
        about: `steps`, `step`, `nothing`, `memory`, `order`, `chunks`, `concurrency`, `columns`, `threads` or `cores`.
        text: what was seen and what to do.
    """

    about: str
    text: str


def advise(diagnosis: Diagnosis) -> list[Advice]:
    """Return what to change, what costs most first; one line of praise if nothing.

    Where too few steps were measured to tell, that is all there is to say.
    """
    if needed := diagnosis.steps_needed:
        return [_too_short(diagnosis, needed)]
    shares, found = diagnosis.shares, []
    if not diagnosis.case.step_s:
        found.append(_rates(diagnosis))
    worth: list[Part] = [part for part in PARTS if part in _CHANGES and shares[part] >= WORTH]
    worth.sort(key=lambda part: -shares[part])
    for part in worth:
        found += [each for each in _CHANGES[part](diagnosis) if each.about not in {other.about for other in found}]
    if not worth:
        rate = diagnosis.cold.samples_per_s
        told = f"even cold the loop gets {rate:,.0f} samples/s; stalls below {WORTH:.0%} of a step are worth no change"
        found.append(Advice("nothing", told))
    return found


def _too_short(diagnosis: Diagnosis, needed: int) -> Advice:
    cold = diagnosis.cold
    return Advice(
        "steps",
        f"{cold.steps:,} steps were over in {cold.seconds * 1e3:,.1f} ms, while up to {cold.lead:,} batches wait for "
        f"the loop; give --steps {needed} or more, or leave it out",
    )


def _rates(diagnosis: Diagnosis) -> Advice:
    warm, cold = diagnosis.in_memory.step_s * 1e3, diagnosis.cold.step_s * 1e3
    return Advice(
        "step",
        f"no --step-ms was given, so the accelerator took no time at all; steps of {warm:.2f} ms and more hide the "
        f"preparation, and steps of {max(warm, cold):.2f} ms and more the fetches too",
    )


def _fetch(diagnosis: Diagnosis) -> list[Advice]:
    stats, case = diagnosis.cold.stats, diagnosis.case
    if stats is None or not stats.origin_requests:
        return []
    found = [*_memory(diagnosis, stats), *_order(diagnosis, stats)]
    mean = stats.origin_bytes / stats.origin_requests
    if mean < _SMALL_FETCH and not case.local:
        found.append(
            Advice(
                "chunks",
                f"a fetch brings {_size(mean)}, so that latency outweighs bytes; make chunks larger "
                "(reshard.min_chunk_rows)",
            )
        )
    rate = stats.origin_bytes / diagnosis.cold.total_s if diagnosis.cold.total_s else 0.0
    found.append(
        Advice(
            "concurrency",
            f"at most {case.concurrency} fetches in flight brought {_size(rate)}/s; try --concurrency "
            f"{2 * case.concurrency} and keep it (loader.concurrency) if that figure grows",
        )
    )
    return found


def _memory(diagnosis: Diagnosis, stats: EpochStats) -> list[Advice]:
    case, again = diagnosis.case, stats.origin_bytes - diagnosis.case.cold_bytes
    if again < _REFETCHED * stats.origin_bytes:
        return []
    return [
        Advice(
            "memory",
            f"{_size(again)} of the {_size(stats.origin_bytes)} fetched had been fetched before; raise --memory from "
            f"{_size(diagnosis.cold.memory)} (loader.cache_fraction): with {_size(case.enough)} nothing of this run is "
            "fetched twice",
        )
    ]


def _order(diagnosis: Diagnosis, stats: EpochStats) -> list[Advice]:
    case = diagnosis.case
    needed = stats.samples * case.sample_bytes
    amplified = stats.origin_bytes / needed if needed else 0.0
    if amplified < _AMPLIFIED:
        return []
    touches = stats.touches / stats.steps
    other = "--order block, or more memory," if _gathers(case, touches) else "more memory or smaller chunks"
    return [
        Advice(
            "order",
            f"{amplified:,.1f} bytes were fetched for every byte of a sample, as a batch of {case.batch:,} touches "
            f"{touches:,.0f} chunks and uses little of each; {other} would use more of them",
        )
    ]


def _size(nbytes: float) -> str:
    """Return bytes as `--memory` takes them, with four digits or so."""
    if nbytes >= _MEGA:
        return f"{nbytes / _MEGA:,.1f} MB"
    return f"{nbytes / _KILO:,.1f} KB" if nbytes >= _KILO else f"{nbytes:.0f} B"


def _gathers(case: Case, touches: float) -> bool:
    """Whether an order by blocks of neighbours would touch far fewer chunks: not if the layout scatters neighbours."""
    return case.order != "block_shuffle" and case.neighbour_chunks <= touches / 2


def _prep(diagnosis: Diagnosis) -> list[Advice]:
    case, stats = diagnosis.case, diagnosis.in_memory.stats
    found: list[Advice] = []
    if case.all_columns and case.columns > _MANY_COLUMNS:
        told = f"every batch is gathered from all {case.columns} columns; name those that the model reads (--column)"
        found.append(Advice("columns", told))
    touches = stats.touches / stats.steps if stats is not None and stats.steps else 0.0
    if touches >= _SCATTERED * case.batch and _gathers(case, touches):
        found.append(
            Advice(
                "order",
                f"a batch of {case.batch:,} is gathered from {touches:,.0f} chunks; --order block gathers longer runs "
                f"from about {case.neighbour_chunks:,.0f}",
            )
        )
    waited = diagnosis.parts_s["prep"] * 1e3
    found.append(
        Advice(
            "threads",
            f"the loop waits {waited:.2f} ms a step for batches whose data are in memory; let more loader workers or "
            "transform_threads prepare and transform them, or do what the transform does once, in the source",
        )
    )
    return found


def _contention(diagnosis: Diagnosis) -> list[Advice]:
    slower = diagnosis.parts_s["contention"] * 1e3
    return [
        Advice(
            "cores",
            f"the step itself took {slower:.2f} ms longer while batches were made beside it; leave a core to the "
            "loader, and see whether something else runs on this machine",
        )
    ]


_CHANGES: Final[dict[Part, Callable[[Diagnosis], list[Advice]]]] = {
    "fetch": _fetch,
    "prep": _prep,
    "contention": _contention,
}
