"""`foreshard doctor`: where a training loop's time goes."""

import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from foreshard.cli.output import console, facts, megabytes, print_json, progress_bar, table
from foreshard.cli.place import GenerationArgument, JsonOption, Place
from foreshard.errors import ConfigError

if TYPE_CHECKING:
    from foreshard.loader.doctor import Advice, Diagnosis, Examination, Phase

_LOOP: Final = "The training loop (by default as in the configuration's `loader`)"
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([kmg]i?)?b?|(%))", re.IGNORECASE)
_WORDS: Final = {
    "compute": "compute: the step itself",
    "prep": "preparation stall: gathering and converting batches",
    "fetch": "fetch stall: data on their way from the store",
    "contention": "contention: the step is slower beside the loader",
}
_LIMITS: Final = {
    "compute": "The step itself is the limit",
    "prep": "Preparing batches is the limit",
    "fetch": "Fetching is the limit",
    "contention": "This machine's cores are the limit",
}


class OrderName(StrEnum):
    """In which order samples are read."""

    UNIFORM = "uniform"
    BLOCK = "block"


def doctor(  # noqa: PLR0913 - a command's options
    place: Place,
    generation: GenerationArgument = None,
    *,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Samples per step; 256 by default.", rich_help_panel=_LOOP)
    ] = None,
    step_ms: Annotated[
        float,
        typer.Option(
            "--step-ms", min=0, help="Milliseconds of compute per step; 0: how quick can it be?", rich_help_panel=_LOOP
        ),
    ] = 0.0,
    order: Annotated[
        OrderName,
        typer.Option(
            "--order", help="uniform: every sample anywhere; block: runs of neighbours.", rich_help_panel=_LOOP
        ),
    ] = OrderName.UNIFORM,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            help="Memory for chunks, like 64MB, 1.5GiB or 25%; a tenth of the train split by default.",
            rich_help_panel=_LOOP,
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", min=1, help="Most fetches in flight; 16 by default.", rich_help_panel=_LOOP),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", help="Hand out this column only; may be repeated.", rich_help_panel=_LOOP),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", min=1, help="Steps to measure in each of the three runs; 200, or more if those tell nothing."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the order.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Tell whether training would wait for data, on what, and what to change.

    The same loop runs three times: with a batch that is there already (compute only), with all of its chunks in memory,
    and cold with the configured memory. What the second run waits for is the preparation stall, what the third waits
    for beyond that is the fetch stall. Compute is emulated: give your accelerator's step with
    --step-ms, or leave it out to learn which steps the loader can keep up with.

    Nothing is written. Run it on the machine that trains, with little else going on, and repeat it: on a store shared
    with others, figures vary.
    """
    loop = _Loop(batch, order, memory, concurrency, tuple(column) if column else None, seed)
    exam = _examination(place, generation, loop, steps=steps, step_s=step_ms / 1e3)
    with progress_bar("compute only", "steps") as progress:
        compute_only = exam.compute_only(progress)
    with progress_bar("all in memory", "steps") as progress:
        in_memory = exam.in_memory(progress)
    with progress_bar("cold", "steps") as progress:
        cold = exam.cold(progress)
    from foreshard.loader.doctor import advise

    diagnosis = exam.diagnose(compute_only, in_memory, cold)
    if as_json:
        print_json(_as_json(diagnosis, advise(diagnosis)))
    else:
        _show(diagnosis, advise(diagnosis))


@dataclass(frozen=True)
class _Loop:
    """The training loop as it was asked for; None where the configuration decides."""

    batch: int | None
    order: OrderName
    memory: str | None
    concurrency: int | None
    columns: tuple[str, ...] | None
    seed: int


def _examination(
    place: Place, generation: str | None, loop: _Loop, *, steps: int | None, step_s: float
) -> "Examination":
    import numpy as np

    from foreshard.config import LoaderConfig
    from foreshard.loader.doctor import Examination
    from foreshard.loader.options import LoaderOptions
    from foreshard.loader.order import BlockShuffleOrder, UniformOrder
    from foreshard.splits import split_code

    ref = place.resolve(generation)
    manifest = place.repository.open(ref)
    told = place.config.loader if place.config is not None else LoaderConfig.model_validate({})
    mine = manifest.splits == split_code("train")
    sizes = manifest.nbytes[mine]
    ids = np.flatnonzero(mine[manifest.chunk_of]).astype(np.int64)
    memory = parse_memory(loop.memory, int(sizes.sum())) if loop.memory is not None else None
    options = LoaderOptions(
        global_batch=loop.batch or told.global_batch,
        columns=loop.columns,
        memory=memory,
        cache_fraction=told.cache_fraction,
        queue_batches=told.queue_batches,
        max_concurrency=loop.concurrency or told.concurrency,
        timeout=told.timeout,
    )
    made = UniformOrder if loop.order is OrderName.UNIFORM else BlockShuffleOrder
    return Examination(place.repository, made(ids, loop.seed), options, steps=steps, step_s=step_s, layout=ref)


def parse_memory(text: str, whole: int) -> int:
    """Return the bytes that a size like 64MB, 1.5GiB, 800000 or 25% (of the split's bytes) stands for.

    Raises:
        ConfigError: it is none of these, or nothing.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"--memory {text!r} is not a size; write bytes, 64MB, 1.5GiB, or 25% of the train split")
    unit = whole / 100 if found[3] else _UNITS[(found[2] or "").lower()]
    size = int(float(found[1]) * unit)
    if not size:
        raise ConfigError(f"--memory {text!r} is no memory at all; the loader needs that of two chunks at least")
    return size


def _as_json(diagnosis: "Diagnosis", advice: "list[Advice]") -> dict[str, Any]:
    return {
        "case": asdict(diagnosis.case),
        "phases": {phase.name.replace(" ", "_"): phase.as_json() for phase in diagnosis.phases},
        "parts_s": diagnosis.parts_s,
        "shares": diagnosis.shares,
        "bottleneck": diagnosis.bottleneck,
        "steps_needed": diagnosis.steps_needed,
        "advice": [asdict(each) for each in advice],
    }


def _show(diagnosis: "Diagnosis", advice: "list[Advice]") -> None:
    printed, case = console(), diagnosis.case
    step = f"{case.step_s * 1e3:g} ms of compute a step" if case.step_s else "no compute, to see the loader's own rates"
    memory = f"{megabytes(diagnosis.cold.memory)} MB for chunks, at most {case.concurrency} fetches in flight"
    rows = [
        ("layout", case.layout),
        ("loop", f"order {case.order}, batches of {case.batch:,}, {step}"),
        ("memory", memory),
        ("caches", case.caches),
    ]
    printed.print(facts(rows))
    runs = table("run", "ms/step", "samples/s", "waited", "hits", "fetched MB", "startup ms", left=("run",))
    for phase in diagnosis.phases:
        runs.add_row(phase.name, *_figures(phase))
    printed.print(runs)
    stalls = table("a cold step", "ms", "share", left=("a cold step",), wrap=("a cold step",))
    for name, seconds in diagnosis.parts_s.items():
        stalls.add_row(_WORDS[name], f"{seconds * 1e3:,.3f}", f"{diagnosis.shares[name]:.1%}")
    printed.print(stalls)
    printed.print(_verdict(diagnosis), soft_wrap=True)
    printed.print(facts([(each.about, each.text) for each in advice]))


def _verdict(diagnosis: "Diagnosis") -> str:
    if diagnosis.steps_needed:
        return "Too short to tell: the shares above are those of a few steps."
    most, shares = diagnosis.bottleneck, diagnosis.shares
    waits = shares["prep"] + shares["fetch"]
    return f"{_LIMITS[most]}: {shares[most]:.1%} of a cold step; {waits:.1%} of it is waiting for data."


def _figures(phase: "Phase") -> list[str]:
    stats = phase.stats
    moved = (f"{stats.residency_hit_rate:.1%}", megabytes(stats.origin_bytes)) if stats is not None else ("-", "-")
    return [
        f"{phase.step_s * 1e3:,.3f}",
        f"{phase.samples_per_s:,.0f}",
        f"{phase.waited_s / phase.seconds:.1%}",
        *moved,
        f"{phase.first_s * 1e3:,.1f}",
    ]
