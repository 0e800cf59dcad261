"""Loaders against each other: one cold shuffled epoch from S3, narrow rows, and how fast an accelerator they can feed.

Run with `make bench ARGS=loader_peers`. Contenders are foreshard's Loader, MosaicML Streaming, LitData and WebDataset.
All read the same rows from the same server, every epoch in a fresh process with empty caches, in rounds in turn;
medians of five. Peers run with the best of a grid of settings, found in an uncounted pass. Their datasets are kept in
the temporary folder for the next run.
"""

import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from benchmarks import harness
from benchmarks.harness import Figure, Options, Ratio, console
from benchmarks.peers_data import PEERS, case_of
from benchmarks.peers_rounds import (
    OURS,
    AcceleratorSearch,
    Entry,
    Place,
    RateSearch,
    Tuned,
    raw_once,
    read_once,
    run_rounds,
    settle,
    tune,
    tune_for_rate,
    write_datasets,
)

RAW: Final = "parallel GETs"
_BUSY_OF_COLD: Final = 0.6
"""Share of a peer's cold rate at which its settings for the accelerator are tuned."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = harness.parse_options("loader_peers", str(__doc__).splitlines()[0], arguments)
    harness.print_environment()
    cases = (
        case_of("samples", 2_000 if options.quick else 40_000),
        case_of("tabular", 50_000 if options.quick else 3_000_000),
    )
    console.print("writing the peers' datasets, unless an earlier run left them", style="dim")
    folders = [write_datasets(case) for case in cases]
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    cold: list[list[Figure]] = []
    settings: dict[str, Tuned] | None = None
    for number, kind in enumerate(harness.s3_kinds()):
        with harness.s3_server(kind) as server, caches_folder() as caches:
            root = f"s3://{server.create_bucket()}"
            place = settle(cases[0], folders[0], root, server.endpoint, caches)
            settings = settings or tuned(place, options)
            found, entries = cold_epochs(place, settings, options, kind)
            cold.append(found)
            details[f"cold_{kind}"] = summary(entries)
            if number == 0:
                busy, more = accelerator(place, settings, entries, options)
                rows, others = tabular(settle(cases[1], folders[1], root, server.endpoint, caches), options)
                figures += [*rows, *busy]
                details |= more | others
    harness.finish(options, [*worst(cold), *figures], details)


def caches_folder() -> "tempfile.TemporaryDirectory[str]":
    """Return a folder for local caches; threads of a loader that was stopped early may still write while it goes."""
    return tempfile.TemporaryDirectory(prefix="foreshard-bench-caches-", ignore_cleanup_errors=True)


# -- tuning --------------------------------------------------------------------------------------------


def tuned(place: Place, options: Options) -> dict[str, Tuned]:
    """Tune every peer on a case and print what was tried."""
    console.print(place.case.shuffles, style="dim")
    console.print(f"tuning the peers: {place.case.kind}", style="dim")
    limit_s = 2.0 if options.quick else 4.0
    found = {peer: tune(place, peer, limit_s, few=options.quick) for peer in PEERS}
    rows: list[tuple[object, ...]] = []
    for peer, result in found.items():
        for settings, answer in result.tried:
            rate = answer.get("error") or f"{answer['rows'] / answer['seconds']:,.0f}"
            rows.append((peer, words(settings), rate, "chosen" if settings is result.settings else ""))
    harness.print_table(f"tuning: {place.case.kind}", ("peer", "settings", "rows/s", ""), rows)
    return found


def words(settings: dict[str, Any]) -> str:
    """Return settings as text."""
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "defaults"


# -- a cold epoch --------------------------------------------------------------------------------------


def entries_of(place: Place, settings: dict[str, Tuned], limit_s: float | None = None) -> list[Entry]:
    """Return a row for foreshard with its defaults, one with more fetches at a time, and one for each peer."""
    runs = {OURS: place.run(OURS, {}), f"{OURS}, max_concurrency=8": place.run(OURS, {"max_concurrency": 8})}
    runs |= {peer: place.run(peer, settings[peer].settings, limit_s=limit_s) for peer in PEERS}
    return [Entry(name, partial(read_once, place, run)) for name, run in runs.items()]


def cold_epochs(
    place: Place, settings: dict[str, Tuned], options: Options, kind: str
) -> tuple[list[Figure], list[Entry]]:
    """Measure one cold epoch of samples, with plain GETs of foreshard's shards in the same rounds."""
    console.print(f"a cold epoch on {kind}", style="dim")
    raw = Entry(RAW, partial(raw_once, place))
    entries = entries_of(place, settings)
    run_rounds([*entries, raw], rounds_of(options))
    title = f"{kind}: a cold shuffled epoch of {place.case.rows:,} samples of 25 KB, batches of {place.case.batch}"
    print_entries(title, [*entries, raw], 25_000 / 1e9, "CPU s/GB")
    ours = entries[0]
    fraction = None if ours.error or raw.error else harness.ratio(raw.per_row, ours.per_row)
    return [
        Figure("cold_speedup_vs_best_peer", median(speedup(entries)), 2.5, at_least=True),
        Figure("cold_cpu_ratio_vs_best_peer", cpu_ratio(entries), 0.4, at_least=False),
        Figure("raw_get_fraction", median(fraction), 0.7, at_least=True),
    ], [*entries, raw]


def tabular(place: Place, options: Options) -> tuple[list[Figure], dict[str, Any]]:
    """Measure an epoch of narrow rows; slow contenders are stopped after a while, as their rate does not change."""
    settings = tuned(place, options)
    console.print("narrow rows", style="dim")
    limit_s = 3.0 if options.quick else 6.0
    entries = entries_of(place, settings, limit_s)
    run_rounds(entries, rounds_of(options))
    title = (
        f"{place.case.rows:,} shuffled rows of 10 columns (336,776 flights, repeated), "
        f"batches of {place.case.batch:,}; peers stop after {limit_s:g} s"
    )
    print_entries(title, entries, 1 / 1e6, "CPU s/million")
    figure = Figure("tabular_speedup_vs_best_peer", median(speedup(entries)), 10.0, at_least=True)
    return [figure], {"tabular": summary(entries), "tabular_settings": chosen(settings)}


def rounds_of(options: Options) -> int:
    """Return how many rounds count."""
    return 1 if options.quick else harness.ROUNDS


def print_entries(title: str, entries: Sequence[Entry], unit: float, unit_name: str) -> None:
    """Print a table of contenders; CPU seconds are given per row divided by `unit`."""
    rows: list[tuple[object, ...]] = []
    for entry in entries:
        if entry.error is not None:
            rows.append((entry.name, "error", "", "", "", "", ""))
            continue
        opening = [answer.get("import_s", 0.0) + answer.get("open_s", 0.0) for answer in entry.answers]
        first = [answer.get("first_batch_s", 0.0) for answer in entry.answers]
        rows.append(
            (
                entry.name,
                harness.spread([1 / each for each in entry.per_row], 0),
                f"{entry.cpu_per_row / unit:.2f}",
                f"{statistics.median(entry.values('process_cpu_s')):.1f}",
                f"{statistics.median(opening):.2f}",
                f"{statistics.median(first):.2f}",
                f"{statistics.median(entry.values('peak_rss_mb')):.0f}",
            )
        )
    columns = ("contender", "rows/s", unit_name, "CPU s, process", "import, open, s", "first batch, s", "peak RSS, MB")
    harness.print_table(title, columns, rows)
    for entry in entries:
        for failure in [*entry.failures, *([entry.error] if entry.error else [])]:
            console.print(f"{entry.name}: {failure}", style="red", markup=False)
        if entry.failures and entry.error is None:
            console.print(f"{entry.name}: {len(entry.failures)} runs failed and were done again", style="red")


# -- the accelerator -----------------------------------------------------------------------------------


def accelerator(
    place: Place, settings: dict[str, Tuned], entries: Sequence[Entry], options: Options
) -> tuple[list[Figure], dict[str, Any]]:
    """Find the highest rate of an accelerator that each contender keeps 90 % busy over a cold epoch."""
    console.print("an emulated accelerator", style="dim")
    compared = [entry for entry in entries if entry.name == OURS or entry.name in PEERS]
    searches = [search_for(place, settings.get(entry.name), entry, options) for entry in compared]
    for _ in range(2 if options.quick else 5):
        for search in searches:
            search.step(place)
    rows = [
        (
            each.name,
            words(each.run.settings),
            "error" if each.error else f"{each.search.passed:,.0f}",
            each.error or ", ".join(f"{rate:,.0f}: {100 * busy:.0f} %" for rate, busy in each.steps),
        )
        for each in searches
    ]
    title = "highest rate of an emulated accelerator that is 90 % busy over a cold epoch"
    harness.print_table(title, ("contender", "settings", "rows/s", "steps"), rows)
    details = {
        "au90_steps": {each.name: [(round(rate), round(busy, 3)) for rate, busy in each.steps] for each in searches},
        "au90_settings": {each.name: words(each.run.settings) for each in searches},
        "au90_failures": {each.name: each.failures for each in searches if each.failures},
        "cold_settings": chosen(settings),
    }
    return [Figure("au90_rate_vs_best_peer", rate_ratio(searches), 2.0, at_least=True)], details


def search_for(place: Place, tuned_before: Tuned | None, entry: Entry, options: Options) -> AcceleratorSearch:
    """Return a search that begins at a contender's cold rate, with the settings of a peer that keep it the busiest."""
    if entry.error is not None:
        return AcceleratorSearch(entry.name, place.run(entry.name, {}), RateSearch(1.0), error=entry.error)
    cold, settings = 1 / statistics.median(entry.per_row), dict[str, Any]()
    if tuned_before is not None:
        choices = tuned_before.best_per_workers() or [tuned_before.settings]
        limit_s = 2.0 if options.quick else 5.0
        settings = tune_for_rate(place, entry.name, choices, _BUSY_OF_COLD * cold, limit_s).settings
    return AcceleratorSearch(entry.name, place.run(entry.name, settings), RateSearch(cold))


# -- figures -------------------------------------------------------------------------------------------


def speedup(entries: Sequence[Entry]) -> Ratio | None:
    """Return how many times as fast as the fastest peer foreshard was; None if any of them failed."""
    ours, *others = (entry for entry in entries if entry.name == OURS or entry.name in PEERS)
    if any(entry.error for entry in (ours, *others)):
        return None
    best = min(others, key=lambda entry: statistics.median(entry.per_row))
    return harness.ratio(best.per_row, ours.per_row)


def cpu_ratio(entries: Sequence[Entry]) -> float | None:
    """Return foreshard's CPU seconds per row over those of the most frugal peer; None if any of them failed."""
    ours, *others = (entry for entry in entries if entry.name == OURS or entry.name in PEERS)
    if any(entry.error for entry in (ours, *others)):
        return None
    return ours.cpu_per_row / min(entry.cpu_per_row for entry in others)


def rate_ratio(searches: Sequence[AcceleratorSearch]) -> float | None:
    """Return foreshard's rate over that of the best peer; None if any of them failed or no peer reached a rate."""
    ours, *others = searches
    best = max(each.search.passed for each in others)
    return ours.search.passed / best if best and not any(each.error for each in searches) else None


def median(found: Ratio | None) -> float | None:
    """Return the median of a ratio, None for none."""
    return None if found is None else found.median


def worst(servers: Sequence[Sequence[Figure]]) -> list[Figure]:
    """Return each figure as it was on the server where it was worst, None if it is missing on one."""
    found: list[Figure] = []
    for figures in zip(*servers, strict=True):
        first, values = figures[0], [figure.value for figure in figures]
        known = [value for value in values if value is not None]
        value = (min if first.at_least else max)(known) if len(known) == len(values) else None
        found.append(Figure(first.key, value, first.target, first.at_least))
    return found


def chosen(settings: dict[str, Tuned]) -> dict[str, str]:
    """Return the settings chosen for each peer, as text."""
    return {peer: words(result.settings) for peer, result in settings.items()}


def summary(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the medians of contenders for the JSON line."""
    return {
        entry.name: {"error": entry.error}
        if entry.error
        else {
            "rows_per_s": round(1 / statistics.median(entry.per_row)),
            "cpu_us_per_row": round(1e6 * entry.cpu_per_row, 2),
            "peak_rss_mb": round(statistics.median(entry.values("peak_rss_mb"))),
            "failures": entry.failures,
        }
        for entry in entries
    }


if __name__ == "__main__":
    main()
