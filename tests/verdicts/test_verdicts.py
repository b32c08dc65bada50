"""The verdict over whole models, on two seeds here and on ten among the slow proofs."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from tests.verdicts import sabotage, unseen, unseen_again
from tests.verdicts.cases import FAULTY, HEALTHY
from tests.verdicts.scoring import bound_rate, count_alarms
from varprobe.modules import walk_tensors

SEEDS = 2
SLOW_SEEDS = 10


def test_there_are_cases_enough() -> None:
    assert len(FAULTY) >= 40
    assert len(HEALTHY) >= 40


@pytest.mark.parametrize("name", FAULTY)
def test_flags_a_faulty_model(name: str) -> None:
    verdicts = {FAULTY[name].judge(seed, predict=False).healthy for seed in range(SEEDS)}
    assert verdicts == {False}


@pytest.mark.parametrize("name", HEALTHY)
def test_passes_a_healthy_model(name: str) -> None:
    for seed in range(SEEDS):
        findings = HEALTHY[name].judge(seed, predict=False).findings
        assert {finding.level for finding in findings} <= {"info"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SLOW_SEEDS))
@pytest.mark.parametrize("name", [*FAULTY, *HEALTHY])
def test_is_right_on_more_seeds(name: str, seed: int) -> None:
    case = FAULTY.get(name) or HEALTHY[name]
    assert case.judge(seed).healthy == (name in HEALTHY)


@pytest.mark.slow
def test_false_alarms_over_a_thousand_seeds() -> None:
    alarms = count_alarms(HEALTHY, range(1000))
    assert bound_rate(len(alarms), 1000)[1] < 0.01, alarms


# On every layer, the ends included: where the fans of a single layer of its kind are exchanged, it
# has the law of the other direction, which is no fault to see.
SHARE = 0.95


def count_named(seeds: int) -> tuple[int, int]:
    deeds = [
        sabotage.commit(case, deed, seed)
        for case in sabotage.MODELS.values()
        for deed in sabotage.DEEDS
        for seed in range(seeds)
    ]
    return sum(deed.is_named for deed in deeds), len(deeds)


def test_one_broken_layer_is_named() -> None:
    named, total = count_named(1)
    # A share of 0.95 leaves so few in 28 with a probability of 1e-3.
    assert named >= stats.binom.ppf(1e-3, total, SHARE)


@pytest.mark.slow
def test_one_broken_layer_is_named_on_20_seeds() -> None:
    named, total = count_named(20)
    assert named >= SHARE * total


@pytest.mark.parametrize(("flagged", "low", "high"), [(0, 0.0, 0.0369), (2, 0.0025, 0.0838)])
def test_the_interval_is_clopper_and_pearsons(flagged: int, low: float, high: float) -> None:
    # 0 of 95: 1 - 0.025**(1/95); 2 of 84 from published tables.
    assert bound_rate(flagged, 98 if flagged == 0 else 84)[1] == pytest.approx(high, abs=2e-3)
    assert bound_rate(flagged, 98 if flagged == 0 else 84)[0] == pytest.approx(low, abs=1e-3)


UNSEEN_FAULTY = unseen.FAULTY | unseen_again.FAULTY
UNSEEN_HEALTHY = unseen.HEALTHY | unseen_again.HEALTHY


@pytest.mark.parametrize("name", [*UNSEEN_FAULTY, *UNSEEN_HEALTHY])
def test_judges_what_nobody_had_seen(name: str) -> None:
    case = UNSEEN_FAULTY.get(name) or UNSEEN_HEALTHY[name]
    assert case.judge(0, predict=False).healthy == (name in UNSEEN_HEALTHY)


# What has no scale of its own: ReLU, norms and sums. Tanh has one, 1, and saturates beyond it.
HOMOGENEOUS = [
    "he_30",
    "relu_30_default",
    "relu_30_he_times_1.5",
    "resnet_8_zero_init",
    "residual_40_scaled",
    "residual_40_unscaled",
    "vgg 13 he",
    "vgg 13 default",
    "one layer × 10",
    "fixup",
]


@pytest.mark.parametrize("unit", [1e-6, 1e6])
@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_units_of_inputs_and_loss_change_no_verdict(name: str, unit: float) -> None:
    case = FAULTY.get(name) or HEALTHY[name]
    plain = case._replace(loss=lambda output: output.mean())
    scaled = plain._replace(
        inputs=lambda: unit * case.inputs(), loss=lambda output: unit * output.mean()
    )
    assert scaled.judge(0, predict=False).healthy == plain.judge(0, predict=False).healthy


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1e-6, 1e6])
@pytest.mark.parametrize("name", [*FAULTY, *HEALTHY])
def test_units_of_the_loss_change_no_verdict(name: str, unit: float) -> None:
    case = FAULTY.get(name) or HEALTHY[name]
    plain = case._replace(loss=case.loss or mean_of_all)
    scaled = plain._replace(loss=lambda y: unit * plain.loss(y))
    assert scaled.judge(0, predict=False).healthy == plain.judge(0, predict=False).healthy


def mean_of_all(output: object) -> torch.Tensor:
    return sum(tensor.float().mean() for _, tensor in walk_tensors(output))
