"""Numbers are taken from whatever library they come, kept as Python's own, and refused by name otherwise."""

import json
from decimal import Decimal

import numpy as np
import pytest

from foreshard.arguments import finite_number, number_above_0, whole_number
from foreshard.errors import ConfigError


@pytest.mark.parametrize("value", [7, np.int64(7), np.uint8(7), np.array(7)])
def test_any_integer_is_kept_as_an_int(value):
    found = whole_number(value, "draws", least=1)
    assert (type(found), found) == (int, 7)
    assert json.dumps(found) == "7"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (64.0, "draws 64.0 is of type float; give an integer, such as 64"),
        (np.float32(1.5), "give an integer"),
        (float("nan"), "of type float; give an integer"),
        ("64", "draws '64' is of type str; give an integer"),
        (None, "draws None is of type NoneType; give an integer"),
        (True, "draws True is of type bool"),
        (np.True_, "is of type bool"),
        (np.array([1, 2]), "of type ndarray"),
        (0, "draws 0 must be at least 1"),
    ],
)
def test_what_is_no_integer_or_too_small_is_refused_by_name_and_value(value, message):
    with pytest.raises(ConfigError, match=message):
        whole_number(value, "draws", least=1)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), Decimal(2)])
def test_any_number_is_kept_as_a_float(value):
    found = number_above_0(value, "timeout")
    assert (type(found), found) == (float, 2.0)


@pytest.mark.parametrize("value", ["2", None, True, [2], float("inf"), float("nan")])
def test_what_is_no_finite_number_is_refused_by_name(value):
    with pytest.raises(ConfigError, match=r"timeout .* (give a number|must be finite)"):
        finite_number(value, "timeout")


@pytest.mark.parametrize("value", [0, -1.5])
def test_a_number_that_must_be_above_0_is_refused_otherwise(value):
    with pytest.raises(ConfigError, match=f"timeout {value} must be above 0"):
        number_above_0(value, "timeout")
