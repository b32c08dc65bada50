"""One row of a prediction, made from what was found of one tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

from varprobe.recording import Site
from varprobe.theory.backpropagation import Arriving
from varprobe.theory.law import (
    Complex,
    Gradient,
    Known,
    Law,
    Noise,
    Unknown,
    Value,
    Weight,
    WeightGradient,
)
from varprobe.theory.parameters import Parameter
from varprobe.theory.sampling.estimate import Estimate
from varprobe.theory.scores import Level, Scores, ScoresGradient
from varprobe.theory.standing import Standing
from varprobe.theory.tracer import Output

COMPLEX = "moments of complex numbers are not predicted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What theory expects of one tensor.

    Parameters
    ----------
    site : Site
        Which tensor; equal to the site that the probe records.
    kind : str
        Class name of the module.
    depth : int
        Order of first execution.
    mean, variance, second_moment : float
        Averaged over draws of the weights and pooled over the elements, in a, a², a². NaN where
        nothing can be said.
    log_std : float
        Standard deviation over draws of ln(measured second moment). Its mean over draws is
        ln(second_moment) - log_std²/2: a typical draw lies below the average.
    status : str
        "exact" at infinite width, "approximate" (also what is estimated from draws), "unknown" (an
        operation without a rule) or "tainted" (follows one).
    reason : str
        Why it is no better.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    >>> prediction = vp.predict(model, torch.ones(1, 64), init="kaiming_normal")
    >>> output = prediction.find(vp.Site(module="0"))
    >>> f"{output.second_moment:.3f}", output.status
    ('2.000', 'exact')
    """

    site: Site
    kind: str
    depth: int
    mean: float
    variance: float
    second_moment: float
    log_std: float
    status: str
    reason: str = ""

    def to_row(self) -> dict[str, object]:
        """Return the row of the frame described by `varprobe.schema.PREDICTION`."""
        return {
            "depth": self.depth,
            "module": self.site.module,
            "call": self.site.call,
            "output": self.site.output,
            "kind": self.kind,
            "signal": self.site.signal,
            "mean": self.mean,
            "variance": self.variance,
            "second_moment": self.second_moment,
            "log_std": self.log_std,
            "status": self.status,
        }


def expect_activation(output: Output, value: Value, drawn: Estimate | str) -> Expectation:
    """Return the row of a module's output; ``drawn`` serves where no rule reached it."""
    site = Site(module=output.module, call=output.call, output=output.path)
    if isinstance(value, Unknown):
        return _estimate(site, output.kind, output.depth, value, drawn)
    if isinstance(value, Noise):
        size = math.prod(value.shape)
        return _row(site, output.kind, output.depth, 0.0, 1.0, math.sqrt(math.log1p(2 / size)))
    if isinstance(value, Known):
        numbers = value.tensor.detach().double()
        return _row(
            site,
            output.kind,
            output.depth,
            float(numbers.mean()),
            float(numbers.square().mean()),
            0.0,
        )
    if isinstance(value, Weight):
        return _row(site, output.kind, output.depth, value.law.mean, value.law.second_moment, 0.0)
    if isinstance(value, Complex):
        return _unknown(site, output.kind, output.depth, "unknown", COMPLEX)
    if isinstance(value, Scores):
        return _row_of_scores(site, output, value.level, value.standing)
    assert isinstance(value, Law)
    return _row(
        site,
        output.kind,
        output.depth,
        float(value.means.mean()),
        value.pairs.mean,
        value.spread.log_std,
        value.standing.status,
        value.standing.reason,
    )


def expect_gradient(
    output: Output, gradient: Arriving, value: Value, drawn: Estimate | str
) -> Expectation:
    """Return the row of the gradient of a module's output."""
    site = Site(module=output.module, call=output.call, output=output.path, signal="gradient")
    if isinstance(gradient, Unknown):
        return _estimate(site, output.kind, output.depth, gradient, drawn)
    if isinstance(value, Complex):
        return _unknown(site, output.kind, output.depth, "unknown", COMPLEX)
    if isinstance(gradient, ScoresGradient):
        return _row_of_scores(site, output, gradient.level, gradient.standing)
    assert isinstance(gradient, Gradient)
    kernel = 0.0
    if isinstance(value, Law):
        kernel = value.field_spread.kernel if gradient.factor else value.spread.kernel
    return _row(
        site,
        output.kind,
        output.depth,
        0.0,
        gradient.pairs.mean,
        gradient.spread.at(kernel).log_std,
        gradient.standing.status,
        gradient.standing.reason,
    )


def _row_of_scores(site: Site, output: Output, level: Level, standing: Standing) -> Expectation:
    return _row(
        site,
        output.kind,
        output.depth,
        level.mean,
        level.second_moment,
        level.spread.log_std,
        standing.status,
        standing.reason,
    )


def expect_weight(parameter: Parameter, depth: int) -> Expectation:
    """Return the row of a parameter: the law it is drawn from, or what it was measured to be."""
    site = Site(module=parameter.module, output=parameter.name, signal="weight")
    law = parameter.law
    reason = parameter.reason
    if law is None:
        return _unknown(site, parameter.kind, depth, "unknown", f"no law for its values: {reason}")
    log_std = 0.0
    if (parameter.drawn or reason) and law.variance:
        log_std = math.sqrt(max(law.kurtosis - 1, 0.0) / parameter.tensor.numel())
    status = "approximate" if reason else "exact"
    if reason:
        reason = f"its draw could not be followed: {reason}"
    return _row(site, parameter.kind, depth, law.mean, law.second_moment, log_std, status, reason)


def expect_weight_gradient(
    parameter: Parameter, depth: int, gradient: Arriving, drawn: Estimate | str
) -> Expectation:
    """Return the row of a parameter's gradient."""
    site = Site(module=parameter.module, output=parameter.name, signal="weight_gradient")
    if isinstance(gradient, Unknown):
        return _estimate(site, parameter.kind, depth, gradient, drawn)
    assert isinstance(gradient, WeightGradient)
    return _row(
        site,
        parameter.kind,
        depth,
        0.0,
        max(gradient.second_moment, 0.0),
        gradient.spread.log_std,
        gradient.standing.status,
        gradient.standing.reason,
    )


def _row(
    site: Site,
    kind: str,
    depth: int,
    mean: float,
    second_moment: float,
    log_std: float,
    status: str = "exact",
    reason: str = "",
) -> Expectation:
    return Expectation(
        site=site,
        kind=kind,
        depth=depth,
        mean=mean,
        variance=max(second_moment - mean * mean, 0.0),
        second_moment=second_moment,
        log_std=log_std,
        status=status,
        reason=reason,
    )


def _estimate(
    site: Site, kind: str, depth: int, value: Unknown, drawn: Estimate | str
) -> Expectation:
    """Return the row of what no rule reached."""
    reason = value.reason if value.tainted else f"{value.op}: {value.reason}"
    if isinstance(drawn, str):
        status = "tainted" if value.tainted else "unknown"
        return _unknown(site, kind, depth, status, f"{reason}; no estimate: {drawn}")
    return _row(
        site,
        kind,
        depth,
        drawn.mean,
        drawn.second_moment,
        drawn.log_std,
        "approximate",
        f"from {drawn.draws} draws, since {reason}",
    )


def _unknown(site: Site, kind: str, depth: int, status: str, reason: str) -> Expectation:
    nan = math.nan
    return Expectation(
        site=site,
        kind=kind,
        depth=depth,
        mean=nan,
        variance=nan,
        second_moment=nan,
        log_std=nan,
        status=status,
        reason=reason,
    )
