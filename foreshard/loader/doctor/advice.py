"""What to change, by what the doctor measured."""

from dataclasses import dataclass
from typing import Final

from foreshard.loader.doctor.findings import Diagnosis
from foreshard.prefetch.monitor import EpochStats

WORTH: Final = 0.05
"""Share of a step below which a stall is not worth a change."""
_REFETCHED: Final = 0.1
_SMALL_FETCH: Final = 256 * 1024
_AMPLIFIED: Final = 3.0
_SCATTERED: Final = 0.25
_MANY_COLUMNS: Final = 8
_MEGA: Final = 1e6


@dataclass(frozen=True)
class Advice:
    """One thing to change, or to know.

    Attributes:
        about: `step`, `nothing`, `memory`, `order`, `chunks`, `concurrency`, `columns` or `threads`.
        text: what was seen and what to do.
    """

    about: str
    text: str


def advise(diagnosis: Diagnosis) -> list[Advice]:
    """Return what to change, the greater stall first; one line of praise if nothing."""
    shares, found = diagnosis.shares, []
    if not diagnosis.case.step_s:
        found.append(_rates(diagnosis))
    fetch = _fetch(diagnosis) if shares["fetch"] >= WORTH else []
    prep = _prep(diagnosis) if shares["prep"] >= WORTH else []
    found += fetch + prep if shares["fetch"] >= shares["prep"] else prep + fetch
    if not fetch and not prep:
        rate = diagnosis.cold.samples_per_s
        told = f"even cold the loop gets {rate:,.0f} samples/s; stalls below {WORTH:.0%} of a step are worth no change"
        found.append(Advice("nothing", told))
    return found


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
                f"a fetch brings {mean / 1e3:,.1f} KB, so that latency outweighs bytes; make chunks larger "
                "(reshard.min_chunk_rows)",
            )
        )
    rate = stats.origin_bytes / diagnosis.cold.total_s / _MEGA if diagnosis.cold.total_s else 0.0
    found.append(
        Advice(
            "concurrency",
            f"{case.concurrency} fetches in flight brought {rate:,.1f} MB/s; try --concurrency {2 * case.concurrency} "
            "and keep it (loader.concurrency) if that figure grows",
        )
    )
    return found


def _memory(diagnosis: Diagnosis, stats: EpochStats) -> list[Advice]:
    case, again = diagnosis.case, stats.origin_bytes - diagnosis.case.cold_bytes
    if again < _REFETCHED * stats.origin_bytes:
        return []
    enough = case.cold_bytes + 2 * case.largest
    return [
        Advice(
            "memory",
            f"{again / _MEGA:,.1f} of the {stats.origin_bytes / _MEGA:,.1f} MB fetched had been fetched before; raise "
            f"--memory from {diagnosis.cold.memory / _MEGA:,.1f} MB (loader.cache_fraction): with "
            f"{enough / _MEGA:,.1f} MB nothing of this run is fetched twice",
        )
    ]


def _order(diagnosis: Diagnosis, stats: EpochStats) -> list[Advice]:
    case = diagnosis.case
    needed = stats.samples * case.sample_bytes
    amplified = stats.origin_bytes / needed if needed else 0.0
    if amplified < _AMPLIFIED:
        return []
    other = "more memory or smaller chunks" if case.order == "block_shuffle" else "--order block, or more memory,"
    return [
        Advice(
            "order",
            f"{amplified:,.1f} bytes were fetched for every byte of a sample, as a batch of {case.batch:,} touches "
            f"{stats.touches / stats.steps:,.0f} chunks and uses little of each; {other} would use more of them",
        )
    ]


def _prep(diagnosis: Diagnosis) -> list[Advice]:
    case, stats = diagnosis.case, diagnosis.in_memory.stats
    found: list[Advice] = []
    if case.all_columns and case.columns > _MANY_COLUMNS:
        told = f"every batch is gathered from all {case.columns} columns; name those that the model reads (--column)"
        found.append(Advice("columns", told))
    touches = stats.touches / stats.steps if stats is not None and stats.steps else 0.0
    if touches >= _SCATTERED * case.batch and case.order != "block_shuffle":
        found.append(
            Advice(
                "order",
                f"a batch of {case.batch:,} is gathered from {touches:,.0f} chunks; --order block gathers longer runs "
                "from fewer",
            )
        )
    busy = diagnosis.stalls_s["prep"] * 1e3
    found.append(
        Advice(
            "threads",
            f"preparing batches costs {busy:.2f} ms a step beyond the compute; let more threads or loader workers "
            "prepare and transform them, or do what the transform does once, when the source is written",
        )
    )
    return found
