"""What a stage reports reaches the event log small, typed and complete."""

import dagster as dg
import pytest

from assets.report import MAX_PLOT_BYTES, run_stage, to_metadata
from foreshard.chain import StageResult
from foreshard.errors import ConfigError, LogError, ObjectNotFoundError, UnreachableError


def test_figures_keep_their_types_and_odd_floats_become_text():
    result = StageResult("v", {"n": 3, "x": 0.5, "yes": True, "why": "words", "none": None, "bad": float("nan")})
    metadata = to_metadata(result)
    assert metadata["n"] == dg.MetadataValue.int(3)
    assert metadata["x"] == dg.MetadataValue.float(0.5)
    assert metadata["yes"] == dg.MetadataValue.bool(value=True)
    assert metadata["why"] == dg.MetadataValue.text("words")
    assert metadata["bad"] == dg.MetadataValue.text("nan")
    assert "none" not in metadata


def test_tables_are_cut_to_fifty_rows_and_say_their_types():
    rows = [{"node": f"n{i}", "rows": i, "share": i / 100, "note": None} for i in range(80)]
    table = to_metadata(StageResult("v", tables={"nodes": rows, "empty": []}))["nodes"]
    assert len(table.records) == 50
    assert [(c.name, c.type) for c in table.schema.columns] == [
        ("node", "string"),
        ("rows", "int"),
        ("share", "float"),
        ("note", "string"),
    ]


def test_plot_that_is_too_large_for_the_event_log_is_named_instead():
    plots = {"small": b"\x89PNG", "large": b"x" * (MAX_PLOT_BYTES + 1)}
    metadata = to_metadata(StageResult("v", plots=plots))
    assert metadata["plot_small"].value == "![small](data:image/png;base64,iVBORw==)"
    assert metadata["plot_large"].value == "large: left out, 30001 bytes are more than 30000"


@pytest.mark.parametrize("error", [ConfigError("bad value"), LogError("bad log"), ObjectNotFoundError("no object")])
def test_error_that_no_retry_cures_fails_at_once_with_its_message(error):
    with pytest.raises(dg.Failure, match=str(error)) as raised:
        run_stage(_raising(error))
    assert raised.value.allow_retries is False


def test_unreachable_store_is_left_to_the_retry_policy():
    with pytest.raises(UnreachableError):
        run_stage(_raising(UnreachableError("down")))


def _raising(error):
    def stage():
        raise error

    return stage
