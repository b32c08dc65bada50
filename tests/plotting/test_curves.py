from __future__ import annotations

import math
from statistics import NormalDist, geometric_mean, quantiles

import pytest
from hypothesis import given, strategies as st

from tests.plotting.samples import (
    make_expectation,
    make_prediction,
    make_record,
    make_recording,
)
from varprobe.errors import UnknownNameError
from varprobe.plotting.curves import Curve, build_curve, check_moment
from varprobe.recording import Recording, Site
from varprobe.theory.prediction import Prediction

NAN = math.nan


def build(
    recording: Recording | None, prediction: Prediction | None = None, **changes: object
) -> Curve:
    sites = dict.fromkeys(row.site.module for row in (recording or prediction))
    options = {"run": "", "step": 0, "signal": "activation", "moment": "second_moment"}
    places = [Site(module=module) for module in sites]
    return build_curve(recording, prediction, places, **{**options, **changes})


def test_the_line_is_the_geometric_mean_over_draws() -> None:
    curve = build(make_recording({"a": [1.0, 100.0], "b": [2.0, 2.0]}))
    assert curve.measured == pytest.approx((10.0, 2.0))
    assert curve.draws == 2


def test_few_draws_are_spanned_by_their_extremes() -> None:
    curve = build(make_recording({"a": [3.0, 1.0, 2.0]}))
    assert (curve.low, curve.high) == ((1.0,), (3.0,))
    assert curve.band == "min–max of 3 draws"


def test_many_draws_are_spanned_by_their_deciles() -> None:
    values = [float(x) for x in range(1, 13)]
    curve = build(make_recording({"a": values}))
    first, *_, last = quantiles(values, n=10, method="inclusive")
    assert (curve.low[0], curve.high[0]) == pytest.approx((first, last))
    assert curve.band == "10–90 % of 12 draws"


def test_one_draw_has_no_band() -> None:
    curve = build(make_recording({"a": [1.0]}))
    assert math.isnan(curve.low[0])
    assert math.isnan(curve.high[0])
    assert curve.band == ""


@given(st.lists(st.floats(1e-30, 1e30), min_size=2, max_size=20))
def test_the_line_lies_within_the_extremes(values: list[float]) -> None:
    curve = build(make_recording({"a": values}))
    # exp and log of up to 70 in size: rounding of at most 70 units in the last place.
    assert curve.measured[0] == pytest.approx(geometric_mean(values), rel=1e-13)
    assert min(values) <= curve.low[0] <= curve.high[0] <= max(values)


def test_a_zero_in_one_draw_is_zero() -> None:
    curve = build(make_recording({"a": [0.0, 1.0]}))
    assert (curve.measured, curve.low, curve.high) == ((0.0,), (0.0,), (1.0,))


def test_what_is_not_finite_is_counted_and_leaves_a_gap() -> None:
    records = (make_record("a", 1.0, nan=4), make_record("a", 1.0, nan=1, draw=1))
    curve = build(Recording(records=records))
    assert curve.nonfinite == (5,)
    assert math.isnan(curve.measured[0])
    assert math.isnan(curve.low[0])


def test_second_moment_and_variance_are_different_numbers() -> None:
    recording = Recording(records=(make_record("relu", 1.0, mean=math.pi**-0.5),))
    assert build(recording).measured == pytest.approx((1.0,))
    # The ReLU of a centred Gaussian: 1 - 1/π.
    assert build(recording, moment="variance").measured == pytest.approx((0.6816901,), abs=1e-7)


def test_only_the_asked_run_step_and_first_backward_pass_count() -> None:
    wanted = make_record("a", 1.0, run="he", step=3)
    others = [
        make_record("a", 9.0, run="glorot", step=3),
        make_record("a", 9.0, run="he", step=4),
        make_record("a", 9.0, run="he", step=3, backward=1),
        make_record("a", 9.0, run="he", step=3, signal="gradient"),
    ]
    curve = build(Recording(records=(wanted, *others)), run="he", step=3)
    assert (curve.measured, curve.draws) == ((1.0,), 1)


def test_a_place_without_a_record_is_a_gap() -> None:
    recording = Recording(records=(make_record("a", 1.0), make_record("b", 1.0, run="other")))
    curve = build(recording)
    assert curve.measured[0] == 1.0
    assert math.isnan(curve.measured[1])


def test_theory_is_the_median_and_95_percent_of_a_log_normal_with_the_predicted_mean() -> None:
    mean, scatter = 3.0, 0.5
    curve = build(None, make_prediction(make_expectation("a", mean, scatter)))
    log = NormalDist(math.log(mean) - scatter**2 / 2, scatter)
    quantile = [math.exp(log.inv_cdf(share)) for share in (0.5, 0.025, 0.975)]
    # 1.96 stands for 1.959964: relative to the edge, 3.6e-5 * scatter.
    found = [curve.expected[0], curve.expected_low[0], curve.expected_high[0]]
    assert found == pytest.approx(quantile, rel=4e-5 * scatter)
    assert curve.draws == 0


def test_theory_of_the_variance_scatters_as_the_second_moment() -> None:
    prediction = make_prediction(make_expectation("a", 1.0, 0.5, variance=0.68))
    second, variance = build(None, prediction), build(None, prediction, moment="variance")
    for name in ("expected", "expected_low", "expected_high"):
        assert getattr(variance, name)[0] == pytest.approx(0.68 * getattr(second, name)[0])


def test_what_theory_does_not_know_is_a_gap() -> None:
    rows = [make_expectation("a", 1.0, 0.0), make_expectation("b", NAN, NAN, status="unknown")]
    recording = make_recording({"a": [1.0], "b": [1.0], "c": [1.0]})
    curve = build(recording, make_prediction(*rows))
    assert curve.expected[0] == 1.0
    assert all(map(math.isnan, curve.expected[1:]))
    assert curve.has_theory
    assert not build(recording, make_prediction(rows[1])).has_theory


def test_a_prediction_without_a_scatter_has_no_band() -> None:
    curve = build(None, make_prediction(make_expectation("a", 2.0, NAN)))
    assert curve.expected == (2.0,)
    assert math.isnan(curve.expected_low[0])


def test_a_scatter_beyond_all_bounds_overflows_in_silence() -> None:
    curve = build(None, make_prediction(make_expectation("a", 1.0, 1e3)))
    assert curve.expected == (0.0,)


def test_unknown_moments_are_suggested() -> None:
    assert check_moment("variance") == "variance"
    with pytest.raises(UnknownNameError, match=r"'varience'. Did you mean 'variance'"):
        check_moment("varience")
