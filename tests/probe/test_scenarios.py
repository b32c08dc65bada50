"""Every scenario: the values and gradients of its twin, and a run that is bitwise the bare one."""

from __future__ import annotations

import re

import pytest
import torch

from tests.probe import (  # noqa: F401
    autograd_scenarios,
    calling_scenarios,
    inplace_scenarios,
    value_scenarios,
)
from tests.probe.scenario import SCENARIOS, Scenario, Twin
from tests.probe.untouched import describe_run
from tests.reference.moments import measure
from varprobe import Moments, Probe, Recording

# The twin adds up the same terms, in float32, in another order: a few roundings of 6e-8 a term, and
# the largest sum of squares here has 6 terms whose errors add. bfloat16 rounds by 4e-3, but the
# twin rounds at the same places.
RELATIVE = 2e-5


@pytest.mark.parametrize("stats", ["moments", "full"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_twin_is_recorded(name: str, stats: str) -> None:
    scenario = _build(name)
    with Probe(scenario.model, stats=stats, signals=("activation", "gradient")) as probe:
        scenario.drive()
    recording = probe.recording
    again = _build(name)
    twin = Twin()
    again.twin(twin)
    activations = {key: measure(values) for key, values in twin.activations.items()}
    gradients = {key: measure(values) for key, values in twin.gradients.items()}
    assert_close(_read(recording, "activation"), {(key, 0): m for key, m in activations.items()})
    assert_close(_read(recording, "gradient"), gradients)
    lines = [str(line) for line in recording.unobserved]
    for pattern in scenario.unobserved:
        assert any(re.search(pattern, line) for line in lines), (pattern, lines)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_run_is_bitwise_the_bare_one(name: str) -> None:
    bare = _build(name)
    expected = describe_run(bare.model, bare.drive)
    probed = _build(name)

    def drive() -> object:
        with Probe(probed.model, stats="full", signals=("activation", "gradient")):
            return probed.drive()

    assert describe_run(probed.model, drive) == expected


def _build(name: str) -> Scenario:
    torch.manual_seed(0)
    return SCENARIOS[name]()


def _read(recording: Recording, signal: str) -> dict[tuple[tuple[str, int, str], int], Moments]:
    return {
        ((r.site.module, r.site.call, r.site.output), r.backward): r.moments
        for r in recording.select(signal=signal)
    }


def assert_close(found: dict[object, Moments], expected: dict[object, Moments]) -> None:
    assert found.keys() == expected.keys()
    for key, moments in expected.items():
        scale = moments.second_moment if moments.finite else 0.0
        close = pytest.approx(moments.second_moment, rel=RELATIVE, nan_ok=True)
        assert found[key].second_moment == close, key
        assert found[key].mean == pytest.approx(
            moments.mean, rel=RELATIVE, abs=RELATIVE * scale**0.5
        )
        assert found[key].abs_max == pytest.approx(moments.abs_max, rel=RELATIVE), key
        assert found[key].numel == moments.numel, key
