"""Forecasts of real logs against last values, moving averages, caches that know no future, and one that knows it all.

Run `.venv/bin/python -m benchmarks.forecast`. Every window that counts is forecast from those before it; models are
chosen and probabilities calibrated from those before, too. Objects never requested before a window are candidates of no
ranking and no probability, as in research/forecast.md §2b: nobody can tell them apart. Caches are warm, and what a
forecast pins is there when the window begins. MIN fetches on demand only, so that it may be exceeded.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks import harness
from benchmarks.forecast_data import DLIO, FOLDER, Case, cases, check_folder, hundred_thousand
from benchmarks.forecast_policies import CACHES, MIN, Hits, replay, replay_epochs
from benchmarks.forecast_rolling import SHIPPED, Rolled, roll
from benchmarks.harness import Figure, Options, run_fresh
from foreshard.access.importers import import_trace
from foreshard.forecast.registry import DEFAULT_NAMES, default_names
from foreshard.forecast.trials import LAST, LAST_PLATT

_ORIGINS: Final = 5
_SCORE_COLUMNS: Final = ("", "NDCG", "precision", "hit mass", "Brier", "skill vs last", "ECE")
_SCORES: Final = ("ndcg", "precision", "hit_mass", "brier", "brier_skill_vs_last", "ece")
_CALLED: Final = {LAST: "last value, 0 or 1", LAST_PLATT: "last value, calibrated"}


def main() -> None:
    """Measure, print tables, and print the figures as JSON."""
    options = harness.parse_options("forecast", __doc__ or "", data=FOLDER)
    assert options.data is not None, "it has a default"
    check_folder(options.data)
    harness.print_environment()
    figures: dict[str, dict[str, Any]] = {}
    for case in cases(options.data, quick=options.quick):
        rolled = roll(case, default_names(case.trace.history()))
        _print_scores(case, rolled)
        hits = {cache: replay(case, rolled, cache) for cache in CACHES}
        _print_hits(f"{case.name}: hits", hits)
        figures[case.key] = figures_of(rolled, hits)
    dlio = replay_epochs(import_trace(options.data / DLIO).trace)
    _print_hits("DLIO unet3d: a training loader's shuffled epochs, hits from the second on", dlio)
    details: dict[str, Any] = {f"{key}_{name}": value for key, row in figures.items() for name, value in row.items()}
    details |= {"dlio": {f"{cache:g}": {"rates": h.rates, "choices": h.choices} for cache, h in dlio.items()}}
    timed, took = _timings(options)
    harness.finish(
        options,
        [
            *summary(figures),
            Figure("dlio_fraction_of_min", min(h.fraction_of_min for h in dlio.values()), 1.0, at_least=True),
            *timed,
        ],
        {**details, **took},
    )


def summary(figures: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """Return what is aimed at on all logs together.

    Args:
        figures: by log, see `figures_of`.
    """

    def each(name: str) -> list[float]:
        return [float(row[name]) for row in figures.values()]

    return [
        Figure("min_ndcg_minus_ewma", min(each("ndcg_minus_ewma")), -0.005, at_least=True),
        Figure("median_ndcg_gain_over_last", statistics.median(each("ndcg_gain_over_last")), 0.04, at_least=True),
        Figure("min_brier_skill_vs_last", min(each("brier_skill_vs_last")), 0.37, at_least=True),
        Figure("median_brier_skill_vs_last", statistics.median(each("brier_skill_vs_last")), 0.45, at_least=True),
        Figure("min_brier_skill_vs_platt_last", min(each("brier_skill_vs_platt_last")), 0.0, at_least=True),
        Figure("max_ece", max(each("ece")), 0.03, at_least=False),
        Figure("min_hits_vs_best_reactive", min(each("hits_vs_best_reactive")), -0.003, at_least=True),
        Figure("flights_hits_gain", float(figures["flights"]["hits_vs_best_reactive"]), 0.03, at_least=True),
    ]


def figures_of(rolled: Rolled, hits: Mapping[float, Hits]) -> dict[str, Any]:
    """Return a log's figures for the JSON line.

    Args:
        rolled: its forecasts.
        hits: by cache size.
    """
    ndcg = rolled.mean(SHIPPED, "ndcg")
    figures: dict[str, Any] = {
        "ndcg": ndcg,
        "ndcg_minus_ewma": ndcg - rolled.mean("ewma", "ndcg"),
        "ndcg_gain_over_last": ndcg - rolled.mean("last", "ndcg"),
        "brier": rolled.mean(SHIPPED, "brier"),
        "brier_skill_vs_last": rolled.skill(SHIPPED, LAST),
        "brier_skill_vs_platt_last": rolled.skill(SHIPPED, LAST_PLATT),
        "ece": rolled.mean(SHIPPED, "ece"),
        "regret": rolled.regret,
        "models": {name: rolled.choices.count(name) for name in dict.fromkeys(rolled.choices)},
        "calibrated": rolled.calibrated,
        "hits_vs_best_reactive": min(found.gain for found in hits.values()),
    }
    for cache, found in hits.items():
        figures |= {f"{name}_{cache:.0%}".rstrip("%"): value for name, value in _cache_figures(found).items()}
    figures["scores"] = {name: {k: round(v, 4) for k, v in row.items()} for name, row in rolled.table().items()}
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in figures.items()}


def _cache_figures(found: Hits) -> dict[str, Any]:
    return {
        "hits": round(found.rates[SHIPPED], 5),
        "hits_gain": round(found.gain, 5),
        "best_reactive": found.best_reactive,
        "fraction_of_min": round(found.fraction_of_min, 4),
        "switches": found.switches,
        "rates": {name: round(rate, 4) for name, rate in found.rates.items()},
        "loads": {name: round(loads, 4) for name, loads in found.loads.items()},
    }


# -- time and memory -----------------------------------------------------------------------------------


def _timings(options: Options) -> tuple[list[Figure], dict[str, Any]]:
    """Time the default forecasters at 100,000 chunks, in processes of their own that take turns."""
    assert options.data is not None, "main saw to that"
    counts = hundred_thousand(options.data, quick=options.quick)
    rounds = 1 if options.quick else harness.ROUNDS
    one: list[float] = []
    many: list[float] = []
    prophet: list[float] = []
    peaks: list[float] = []
    for _ in range(rounds):
        one.append(run_fresh("forecast_task", "backtest_seconds", counts, 1).answer["seconds"])
        fresh = run_fresh("forecast_task", "backtest_seconds", counts, _ORIGINS)
        many.append(fresh.answer["seconds"])
        peaks.append(fresh.peak_rss_mb / 1e3)
        prophet.append(run_fresh("forecast_task", "forecaster_seconds", counts, "prophet").answer)
    rows = {
        "default forecasters, one origin, s": one,
        f"default forecasters, {_ORIGINS} origins, s": many,
        "grouped Prophet alone, s": prophet,
        f"peak memory of the largest process, {_ORIGINS} origins, GB": peaks,
    }
    chunks = "2,000" if options.quick else "100,000"
    title = f"{chunks} chunks, 24 windows: {', '.join(DEFAULT_NAMES)}; median of {rounds} (lowest to highest)"
    harness.print_table(title, ("", "measured"), [(name, harness.spread(values)) for name, values in rows.items()])
    figures = [
        Figure("seconds_100k_chunks", statistics.median(one), 5.0, at_least=False),
        Figure("seconds_100k_chunks_5_origins", statistics.median(many), 30.0, at_least=False),
        Figure("peak_rss_gb", statistics.median(peaks), 1.5, at_least=False),
        Figure("prophet_grouped_100k_s", statistics.median(prophet), 5.0, at_least=False),
    ]
    return figures, {"timings": {name: [round(value, 3) for value in values] for name, values in rows.items()}}


# -- tables --------------------------------------------------------------------------------------------


def _print_scores(case: Case, rolled: Rolled) -> None:
    chosen = ", ".join(f"{name} {rolled.choices.count(name)}" for name in dict.fromkeys(rolled.choices))
    harness.print_table(
        f"{case.name}: {len(case.trace.objects):,} requests, {len(case.trace.names):,} objects; the last "
        f"{case.evaluated} of {case.trace.windows} windows, depth 10 % (foreshard took {chosen}; "
        f"calibrated {rolled.calibrated}; regret {rolled.regret:.4f})",
        _SCORE_COLUMNS,
        [
            (_CALLED.get(name, name), *(f"{row[metric]:.4f}" for metric in _SCORES))
            for name, row in rolled.table().items()
        ],
    )


def _print_hits(title: str, hits: Mapping[float, Hits]) -> None:
    """Print hit rates by policy and cache size, and loads a request."""
    names: Sequence[str] = list(next(iter(hits.values())).rates)
    columns = ["", *(f"{cache:.0%} cache (loads a request)" for cache in hits)]
    harness.print_table(
        title,
        columns,
        [(name, *(_cell(found, name) for found in hits.values())) for name in names],
    )


def _cell(found: Hits, name: str) -> str:
    rate = f"{found.rates[name]:.2%}"
    return rate if name == MIN else f"{rate} ({found.loads[name]:.3f})"


if __name__ == "__main__":
    main()
