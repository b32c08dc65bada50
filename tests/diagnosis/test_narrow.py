from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

import varprobe as vp
from tests.diagnosis.cases import draw_weights, he, layer_norm_mlp, mlp, residual_mlp
from tests.diagnosis.judging import judge, rows
from tests.verdicts.case import stack
from varprobe.diagnosis.narrow import MAX_SLENDERNESS


def he_stack(depth: int, width: int) -> nn.Module:
    torch.manual_seed(0)
    return draw_weights(mlp(depth, nn.ReLU, width), he)


def orthogonal() -> nn.Module:
    torch.manual_seed(0)
    return draw_weights(stack(60, nn.Identity, 32), nn.init.orthogonal_)


def batch_norm() -> nn.Module:
    torch.manual_seed(0)
    return stack(24, lambda: nn.Sequential(nn.BatchNorm1d(32), nn.ReLU()), 32)


@pytest.mark.parametrize(("depth", "width"), [(40, 32), (80, 64)])
def test_finds_a_chain_that_is_too_deep_for_its_width(depth: int, width: int) -> None:
    (finding,) = judge(he_stack(depth, width), rows(width=width), "VP106")
    # Behind the first layer there are depth - 1 of them, and each adds 2 / width.
    assert finding.measured == 2 * (depth - 1) / width > finding.threshold == MAX_SLENDERNESS
    assert finding.module == str(2 * (depth - 1))
    assert f"{depth - 1} layers of {width} units behind 0" in finding.message


@pytest.mark.parametrize(("depth", "width"), [(16, 32), (40, 128)])
def test_a_wider_or_shorter_one_is_well(depth: int, width: int) -> None:
    assert judge(he_stack(depth, width), rows(width=width), "VP106") == []


@pytest.mark.parametrize(
    "build",
    [orthogonal, batch_norm, lambda: residual_mlp(40, 40**-0.5, 32)],
    ids=["orthogonal", "batch norm", "a way around"],
)
def test_what_keeps_directions_apart_may_be_deep(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    assert judge(build(), rows(width=32), "VP106") == []


def test_norms_of_single_samples_do_not_help() -> None:
    torch.manual_seed(0)
    (finding,) = judge(layer_norm_mlp(40, 32), rows(width=32), "VP106")
    assert finding.level == "error"


@pytest.mark.parametrize(
    "inputs",
    [torch.ones(32, 32), 1e9 + rows(width=32), torch.randn(1, 32)],
    ids=["all alike", "far away", "one sample"],
)
def test_samples_that_were_parallel_before_tell_nothing(inputs: torch.Tensor) -> None:
    assert judge(he_stack(40, 32), inputs, "VP106") == []


def test_angles_that_nobody_measured_tell_nothing() -> None:
    recording = vp.profile(he_stack(40, 32), rows(width=32))
    last = max(r.depth for r in recording.records if r.kind == "Linear") - 2  # before the head
    blind = [replace(r, linear_input=None) if r.depth == last else r for r in recording.records]
    for records, found in ((recording.records, 1), (tuple(blind), 0)):
        analysis = vp.analyze(replace(recording, records=records))
        assert len(vp.diagnose(analysis, select=["VP106"]).all_findings) == found


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_do_not_matter(unit: float) -> None:
    (finding,) = judge(he_stack(40, 32), rows(width=32), "VP106")
    (scaled,) = judge(he_stack(40, 32), unit * rows(width=32), "VP106")
    assert scaled.message == finding.message
