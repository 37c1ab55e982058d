"""The rating scale and its mapping to [0, 1]."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigc_cli.errors import AigcError
from aigc_cli.mos_scale import DEFAULT_SCALE, UNIT, MosScale

INVALID = [
    (5, 5),
    (5, 0),
    (0, 1e308),
    (0, math.inf),
    (-math.inf, 5),
    (math.nan, 5),
    (0, math.nan),
    (math.nan, math.nan),
]


@pytest.mark.parametrize(("low", "high"), INVALID)
def test_an_invalid_scale_is_an_error(low: float, high: float) -> None:
    with pytest.raises(AigcError) as caught:
        MosScale(low, high)
    assert caught.value.exit_code == 2
    assert (
        caught.value.message
        == f"Expected scores of at most a million with mos_min < mos_max, found {low:g} and {high:g}."
    )
    assert caught.value.hint == "Give the ends of the rating scale as --mos-min and --mos-max."


def test_the_default_scale_is_0_to_5() -> None:
    assert MosScale(0, 5) == DEFAULT_SCALE
    assert str(DEFAULT_SCALE) == "0 to 5"
    assert str(MosScale(-1.5, 1e6)) == "-1.5 to 1e+06"


def test_the_ends_map_to_0_and_1_and_nothing_is_clipped() -> None:
    scale = MosScale(1, 5)
    assert scale.span == 4
    assert [scale.to_unit(mos) for mos in (1, 3, 5, 0, 7)] == [0, 0.5, 1, -0.25, 1.5]
    assert [scale.to_mos(unit) for unit in (0, 0.5, 1, -0.25, 1.5)] == [1, 3, 5, 0, 7]
    assert (UNIT.to_unit(0.3), UNIT.to_mos(0.3)) == (0.3, 0.3)


def test_arrays_keep_their_shape_and_missing_ratings_stay_missing() -> None:
    mos = np.array([[1.0, np.nan], [3.0, 5.0]])
    unit = MosScale(1, 5).to_unit(mos)
    np.testing.assert_array_equal(unit, [[0, np.nan], [0.5, 1]])
    np.testing.assert_array_equal(MosScale(1, 5).to_mos(unit), mos)


ENDS = st.floats(-100, 100).map(lambda value: round(value, 3))


@given(low=ENDS, span=st.floats(0.01, 100), unit=st.floats(0, 1))
def test_the_mappings_are_inverse(low: float, span: float, unit: float) -> None:
    scale = MosScale(low, low + span)
    assert scale.to_unit(scale.to_mos(unit)) == pytest.approx(unit, abs=1e-9)
    assert low - 1e-9 <= scale.to_mos(unit) <= low + span + 1e-9
