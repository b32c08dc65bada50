from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import varprobe as vp
from tests.strategies import make_record
from varprobe.gains import score_chi_square
from varprobe.schema import ANALYSIS


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def stack(depth: int = 6, width: int = 32) -> nn.Sequential:
    return nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())])


def gains(analysis: vp.Analysis) -> dict[str, float]:
    sites = analysis.select(signal="activation")
    return {site.site.module: site.gain.z for site in sites if site.gain is not None}


def test_the_frame_has_the_columns_of_the_schema_and_a_row_for_each_record() -> None:
    recording = vp.profile(stack(), torch.randn(16, 32), init="kaiming_normal", draws=2)
    frame = vp.analyze(recording).to_frame()
    assert list(frame.columns) == [column.name for column in ANALYSIS]
    assert len(frame) == len(recording)
    measured = [column for column in recording.to_frame().columns if column in frame]
    keys = ["run", "draw", "step", "depth", "module", "call", "output", "signal"]
    pd.testing.assert_frame_equal(
        frame[measured].sort_values(keys, ignore_index=True),
        recording.to_frame().sort_values(keys, ignore_index=True),
    )


def test_refuses_what_is_no_recording() -> None:
    with pytest.raises(vp.InvalidArgumentError, match=r"Expected a Recording.* got DataFrame"):
        vp.analyze(pd.DataFrame())


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(24, 40), (32, 24)),
    "linear on tokens": (lambda: nn.Linear(24, 40), (8, 5, 24)),
    "linear without bias": (lambda: nn.Linear(24, 40, bias=False), (32, 24)),
    "padded convolution": (lambda: nn.Conv2d(8, 16, 3, padding=1), (4, 8, 10, 10)),
    "grouped, strided": (lambda: nn.Conv2d(8, 16, 3, stride=2, groups=4), (4, 8, 11, 11)),
    "depthwise": (lambda: nn.Conv1d(16, 16, 5, groups=16, padding="same"), (8, 16, 20)),
    "volume": (lambda: nn.Conv3d(3, 32, 3, padding=1, padding_mode="circular"), (2, 3, 6, 6, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_local_test_is_calibrated(name: str) -> None:
    """Over draws of the weights the score of a right layer is a standard normal."""
    build, shape = LAYERS[name]
    inputs = torch.randn(shape) + torch.randn(1, *shape[1:])
    draws = 300
    recording = vp.profile(build, inputs, draws=draws, loss=False)
    scores = [gains(vp.analyze(vp.Recording(records=(r, *w))))[""] for r, w in by_draw(recording)]
    # Mean and standard deviation of 300 standard normals scatter by 1/sqrt(300) and 1/sqrt(600);
    # 4.5 of each. The anisotropy is estimated, to a tenth where it is small.
    assert abs(np.mean(scores)) < 4.5 / math.sqrt(draws)
    assert abs(np.std(scores) - 1) < 4.5 / math.sqrt(2 * draws) + 0.1


def by_draw(recording: vp.Recording):
    for draw in range(recording.draws):
        (activation,) = recording.select(signal="activation", draw=draw)
        yield activation, recording.select(signal="weight", draw=draw)


def test_the_local_test_holds_in_any_architecture() -> None:
    """Residual branches, sharing and attention do not matter: each layer is seen by itself."""
    model = nn.TransformerEncoderLayer(64, 4, dropout=0.0, batch_first=True)
    recording = vp.profile(model, torch.randn(8, 12, 64), init="default", draws=8)
    scores = gains(vp.analyze(recording))
    assert set(scores) == {"linear1", "linear2"}
    assert all(abs(score) < 4.5 for score in scores.values())


def test_the_error_of_the_theory_itself_bounds_significance() -> None:
    # A norm holds the second moment at 1 for every draw: the scatter is 0, and 1 % is no finding.
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64))
    inputs = torch.randn(32, 64)
    recording = vp.profile(model, inputs, init="default", draws=4)
    analysis = vp.analyze(recording, vp.predict(model, inputs, init="default"))
    (norm,) = [s for s in analysis.select(signal="activation") if s.site.module == "1"]
    assert norm.expectation is not None
    assert norm.expectation.log_std < 1e-3
    assert abs(norm.z) < 1


def test_a_layer_whose_output_does_not_follow_from_its_weights_is_seen() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 1.5

    right, wrong = nn.Linear(128, 128), Doubled(128, 128)
    inputs = torch.randn(64, 128)
    assert abs(gains(vp.analyze(vp.profile(right, inputs)))[""]) < 4.5
    assert gains(vp.analyze(vp.profile(wrong, inputs)))[""] > 8


def test_draws_add_up_to_significance() -> None:
    inputs = torch.randn(64, 32)

    def lift(module: nn.Module) -> None:
        # One direction of the input carries all its energy, and the weights are aligned with it.
        if isinstance(module, nn.Linear):
            with torch.no_grad():
                module.weight.normal_(std=32**-0.5)
                module.weight += 0.3 * inputs[0] / inputs[0].norm()

    one = gains(vp.analyze(vp.profile(nn.Linear(32, 32), inputs, init=lift)))[""]
    many = gains(vp.analyze(vp.profile(nn.Linear(32, 32), inputs, init=lift, draws=16)))[""]
    assert abs(many) > 2 * abs(one) > 0


@pytest.mark.parametrize("freedom", [4.0, 40.0, 4000.0])
@pytest.mark.parametrize("score", [-3.0, -1.0, 0.0, 1.0, 3.0])
def test_wilson_hilferty_against_the_chi_square(freedom: float, score: float) -> None:
    from scipy import stats

    quantile = stats.chi2.ppf(stats.norm.cdf(score), freedom) / freedom
    # The cube root is a normal up to terms of order ν^(-1/2) in the far tails.
    assert score_chi_square(quantile, 2 / freedom) == pytest.approx(score, abs=0.6 / freedom**0.5)


def test_chi_is_the_growth_of_the_gradient_between_weighted_layers() -> None:
    recording = vp.profile(stack(depth=3), torch.randn(16, 32))
    frame = vp.analyze(recording).to_frame()
    gradient = {
        record.site.module: record.moments.second_moment
        for record in recording.select(signal="gradient")
    }
    shown = frame[(frame.signal == "activation") & frame.chi.notna()].set_index("module").chi
    assert shown.to_dict() == pytest.approx(
        {"2": gradient["0"] / gradient["2"], "4": gradient["2"] / gradient["4"]}
    )


def test_zero_and_non_finite_sites_have_no_ratio_and_do_not_crash() -> None:
    model = stack(depth=2)
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
        model[2].weight.fill_(math.nan)
    frame = vp.analyze(vp.profile(model, torch.randn(4, 32))).to_frame()
    assert frame.nonfinite.sum() > 0
    assert frame.gain.isna().all()


def test_an_analysis_of_a_saved_recording_is_the_same(tmp_path) -> None:
    recording = vp.profile(stack(), torch.randn(16, 32))
    recording.save(tmp_path / "recording.json")
    again = vp.Recording.load(tmp_path / "recording.json")
    pd.testing.assert_frame_equal(
        vp.analyze(again).to_frame(), vp.analyze(recording).to_frame(), check_exact=True
    )


def test_repr_counts_what_was_compared() -> None:
    record = make_record()
    assert repr(vp.analyze(vp.Recording(records=(record,), meta={"model": "Net"}))) == (
        "<Analysis of Net: 1 draw(s), 0 of 1 sites with a prediction>"
    )
