"""Results made by hand: every number is known, and nothing has to run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from varprobe.analysis import Analysis, analyze
from varprobe.diagnosis import Diagnosis, Finding
from varprobe.moments import LinearInput, Moments
from varprobe.recording import Record, Recording, Site, Unobserved

EVIL = "<script>alert(1)</script>|`[b]*&\"'"
"""A module may be called anything."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Stands for `varprobe.theory.Expectation`, which needs torch to import."""

    site: Site
    second_moment: float
    log_std: float = 0.5
    status: str = "exact"
    reason: str = ""
    mean: float = 0.0
    kind: str = "Linear"
    depth: int = 0

    @property
    def variance(self) -> float:
        return self.second_moment - self.mean**2


class Prediction:
    """Stands for `varprobe.theory.Prediction`: the name is what reports go by."""

    def __init__(self, *expectations: Expected) -> None:
        self.expectations = expectations
        self.meta = {"model": "Net", "init": "kaiming_normal"}
        self.unsupported = {"aten.fft": 2}

    def __len__(self) -> int:
        return len(self.expectations)

    def __iter__(self):
        return iter(self.expectations)

    def find(self, site: Site) -> Expected | None:
        return next((e for e in self.expectations if e.site == site), None)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Stands for `varprobe.Comparison`."""

    analyses: dict[str, Analysis]
    diagnoses: dict[str, Diagnosis]


def moments(second_moment: float, nonfinite: int = 0) -> Moments:
    """Return moments of 100 elements with mean 0."""
    return Moments(
        numel=100,
        mean=0.0,
        m2=second_moment * (100 - nonfinite),
        abs_max=3.0,
        zeros=25,
        nan=nonfinite,
    )


def layer(
    depth: int, name: str, activation: float, gradient: float, *, draw: int = 0, run: str = ""
) -> list[Record]:
    """Return the records of a Linear layer with weights of second moment 1/10 and fan-in 10."""
    received = LinearInput(
        second_moment=1.0, energy=10.0, common_energy=1.0, effective_samples=8.0, positions=8
    )
    numbers = {"activation": activation, "gradient": gradient, "weight": 0.1}
    return [
        Record(
            run=run,
            draw=draw,
            depth=depth,
            site=Site(module=name, output="weight" if signal == "weight" else "", signal=signal),
            kind="Linear",
            moments=moments(number),
            shape=(10, 10),
            fan_in=10 if signal == "weight" else None,
            fan_out=10 if signal == "weight" else None,
            linear_input=received if signal == "activation" else None,
        )
        for signal, number in numbers.items()
    ]


def recording(*names: str, run: str = "", draws: int = 1) -> Recording:
    """Return layers whose activations halve and whose gradients double with depth."""
    return Recording(
        records=tuple(
            record
            for draw in range(draws)
            for depth, name in enumerate(names)
            for record in layer(depth, name, 0.5**depth, 2.0**depth, draw=draw, run=run)
        ),
        meta={"model": "Net", "seed": 7, "init": run or None, "scale": math.inf},
        unobserved=(Unobserved(module=names[-1], reason="it is <shy>"),),
    )


def prediction(*names: str) -> Prediction:
    """Return expectations of 1 for every activation, and none for the gradient of the last."""
    activations = [Expected(site=Site(module=name), second_moment=1.0) for name in names]
    unknown = Expected(
        site=Site(module=names[-1], signal="gradient"),
        second_moment=math.nan,
        log_std=math.nan,
        status="unknown",
        reason="aten.fft: no rule",
    )
    return Prediction(*activations, unknown)


def analysis(*names: str, run: str = "", draws: int = 1) -> Analysis:
    """Return the comparison of these layers with their prediction."""
    return analyze(recording(*names, run=run, draws=draws), prediction(*names))


def finding(module: str, *, code: str = "VP301", level: str = "error", run: str = "") -> Finding:
    """Return a finding that measured infinity."""
    return Finding(
        code=code,
        name="weight variance",
        level=level,
        module=module,
        run=run,
        measured=math.inf,
        expected=2.0,
        threshold=math.nan,
        message=f"the weight of {module} is off",
        remedy=f"draw {module} again",
    )


def diagnosis(*names: str, run: str = "", codes: tuple[str, ...] = ("VP301",)) -> Diagnosis:
    """Return the verdict that every layer is to blame, by every code."""
    return Diagnosis(
        findings=tuple(finding(name, code=code, run=run) for code in codes for name in names),
        analysis=analysis(*names, run=run),
        ignored={"VP103": 4},
    )


def healthy(*names: str, run: str = "", draws: int = 1) -> Diagnosis:
    """Return the verdict that all is well."""
    return Diagnosis(findings=(), analysis=analysis(*names, run=run, draws=draws))


def comparison() -> Comparison:
    """Return an initialization that is healthy beside one that is not."""
    diagnoses = {
        "default": diagnosis("a", "b", run="default"),
        "kaiming_normal": healthy("a", "b", run="kaiming_normal"),
    }
    return Comparison(
        analyses={name: found.analysis for name, found in diagnoses.items()}, diagnoses=diagnoses
    )
