"""A log that ends in mid-epoch is forecast from its whole epochs; one whose volume changes is forecast from all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshard.access.importers import Imported, Report
from foreshard.access.trace import Trace, equal_starts
from foreshard.forecast.cut_short import cut_short, without_newest_epoch
from foreshard.forecast.outputs import import_json
from foreshard.forecast.study import study_log

MODELS = ("last", "ewma")


def trace_of(lengths, phases=1, objects=50, seed=0) -> Trace:
    """Epochs of so many requests, each cut into phases as importers do it."""
    lengths = np.asarray(lengths, np.int64)
    first = np.concatenate([[0], np.cumsum(lengths)])
    starts = np.append((first[:-1, None] + np.arange(phases) * lengths[:, None] // phases).ravel(), first[-1])
    share = 1 / np.arange(1, objects + 1)
    drawn = np.random.default_rng(seed).choice(objects, first[-1], p=share / share.sum()).astype(np.int32)
    return Trace(drawn, np.arange(objects).astype(object), np.ones(objects, np.int64), starts, phases)


def imported(trace: Trace) -> Imported:
    return Imported(trace, Report("test", ("log",), len(trace.objects), ()))


# -- which epochs are --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lengths",
    [
        [1000, 1000, 1000, 400],
        [1000, 900, 1100, 1000, 1000, 440],
        [100, 1000, 1000, 1000, 100],  # the log begins in mid-epoch, too
        [1000] * 12 + [1],
    ],
)
@pytest.mark.parametrize("phases", [1, 4])
def test_a_last_epoch_that_lacks_more_than_half_is_cut_short(lengths, phases):
    lengths = [max(each, phases) for each in lengths]
    found = cut_short(trace_of(lengths, phases))
    assert found is not None
    assert (found.epoch, found.requests, found.least) == (len(lengths), lengths[-1], min(lengths[1:-1]))


@pytest.mark.parametrize(
    "lengths",
    [
        [1000, 1000, 1000, 1000],
        [1000, 1000, 1000, 500],  # half, and who knows
        [1000, 1000, 400, 300],  # a volume that has dropped before
        [1600, 800, 400, 200, 90],  # one that falls by half from epoch to epoch
        [1000, 250, 1000, 250, 1000, 100],  # one that goes up and down
        [1000, 1000, 100],  # two epochs before it are too few to be forecast from
        [400, 1000, 1000, 1000],
    ],
)
def test_a_volume_that_changes_is_no_epoch_cut_short(lengths):
    assert cut_short(trace_of(lengths)) is None


@given(requests=st.integers(1, 300), windows=st.integers(1, 60))
def test_windows_of_equal_numbers_of_requests_are_never_cut_short(requests, windows):
    starts = equal_starts(requests, min(windows, requests))
    names = np.arange(1).astype(object)
    assert cut_short(Trace(np.zeros(requests, np.int32), names, np.ones(1, np.int64), starts, 1)) is None


def test_an_epoch_of_which_some_phases_are_there_tells_so_by_itself():
    whole = trace_of([100] * 5, phases=4)
    part = Trace(whole.objects[: whole.starts[17]], whole.names, whole.nbytes, whole.starts[:18], 4)
    assert cut_short(part) is None


# -- what becomes of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("phases", [1, 3])
def test_a_log_that_ends_in_mid_epoch_is_forecast_as_if_it_ended_before(phases):
    trace = trace_of([600] * 5 + [60], phases)
    whole = without_newest_epoch(trace)
    assert whole.windows == 5 * phases
    assert len(whole.objects) == 3000
    found, wanted = (study_log(imported(log), cache_fraction=0.2, names=MODELS) for log in (trace, whole))
    assert found.result.table.equals(wanted.result.table)
    assert found.result.backtest is not None
    assert wanted.result.backtest is not None
    assert found.result.backtest.scores.equals(wanted.result.backtest.scores)
    assert found.choice.evidence.equals(wanted.choice.evidence)
    assert found.history.windows == 5 * phases
    assert found.best_possible == wanted.best_possible


def test_that_an_epoch_was_left_out_is_said_in_the_result_and_counted_in_the_report():
    found = study_log(imported(trace_of([600] * 5 + [60])), cache_fraction=0.2, names=MODELS)
    assert "epoch 6, the last one, has 60 requests where others have 600 or more" in found.result.note
    finding = import_json(found)["findings"][0]
    assert (finding["reason"], finding["count"]) == ("request of a last epoch cut short, not used", 60)
    assert import_json(found)["requests"] == 3060
    whole = study_log(imported(trace_of([600] * 5)), cache_fraction=0.2, names=MODELS)
    assert whole.result.note == ""
    assert import_json(whole)["findings"] == []
