"""Every initializer of torch.nn.init on layers of many shapes, with what each should be called."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import init

from varprobe.identification import Origin, identify

Fans = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """An initializer and the truth about it.

    ``variance`` is that of its law (before a truncation) given torch's fans; for an orthogonal
    matrix, the variance times its longer side.
    """

    name: str
    draw: Callable[[Tensor], object]
    distribution: str
    variance: Callable[[Fans], float] | None = None


def compute_fans(weight: Tensor) -> Fans:
    """Return the fans that torch.nn.init sees."""
    return init._calculate_fan_in_and_fan_out(weight)


def scale_variance(weight: Tensor) -> Tensor:
    """Draw as Keras and JAX do: variance 1/fan_in is left behind a cut at ±2."""
    std = math.sqrt(1 / compute_fans(weight)[0]) / 0.87962566103423978
    return init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


RANDOM = (
    Case("uniform ±0.1", lambda w: init.uniform_(w, -0.1, 0.1), "uniform", lambda f: 0.01 / 3),
    Case("uniform 0…1", init.uniform_, "uniform", lambda f: 1 / 12),
    Case("normal 0.02", lambda w: init.normal_(w, std=0.02), "normal", lambda f: 4e-4),
    Case("normal 0.006", lambda w: init.normal_(w, std=0.006), "normal", lambda f: 3.6e-5),
    Case("normal 0.3", lambda w: init.normal_(w, std=0.3), "normal", lambda f: 0.09),
    Case("normal 1", init.normal_, "normal", lambda f: 1.0),
    Case("normal 1 ± 0.02", lambda w: init.normal_(w, 1.0, 0.02), "normal", lambda f: 4e-4),
    Case(
        "trunc_normal ±2 std",
        lambda w: init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04),
        "trunc_normal",
        lambda f: 4e-4,
    ),
    # Cut at ±2, a hundred standard deviations: nothing is.
    Case("trunc_normal ±2", lambda w: init.trunc_normal_(w, std=0.02), "normal", lambda f: 4e-4),
    Case("trunc_normal", init.trunc_normal_, "trunc_normal", lambda f: 1.0),
    Case("variance scaling", scale_variance, "trunc_normal", lambda f: 1 / f[0]),
    Case("xavier_uniform", init.xavier_uniform_, "uniform", lambda f: 2 / sum(f)),
    Case("xavier_normal", init.xavier_normal_, "normal", lambda f: 2 / sum(f)),
    Case(
        "xavier_normal tanh",
        lambda w: init.xavier_normal_(w, gain=5 / 3),
        "normal",
        lambda f: 50 / 9 / sum(f),
    ),
    *(
        Case(
            f"{draw.__name__} {mode} {nonlinearity}",
            lambda w, d=draw, m=mode, n=nonlinearity: d(w, mode=m, nonlinearity=n),
            distribution,
            lambda f, m=mode, n=nonlinearity: init.calculate_gain(n) ** 2 / f[m == "fan_out"],
        )
        for draw, distribution in (
            (init.kaiming_uniform_, "uniform"),
            (init.kaiming_normal_, "normal"),
        )
        for mode in ("fan_in", "fan_out")
        for nonlinearity in ("relu", "tanh", "selu", "linear")
    ),
    Case(
        "torch default",
        lambda w: init.kaiming_uniform_(w, a=math.sqrt(5)),
        "uniform",
        lambda f: 1 / 3 / f[0],
    ),
    Case("orthogonal", init.orthogonal_, "orthogonal", lambda f: 1.0),
    Case("orthogonal relu", lambda w: init.orthogonal_(w, math.sqrt(2)), "orthogonal", lambda f: 2),
    Case("sparse", lambda w: init.sparse_(w, 0.5), "sparse", lambda f: 1e-4),
)

FIXED = (
    Case("zeros", init.zeros_, "zeros"),
    Case("ones", init.ones_, "constant"),
    Case("constant", lambda w: init.constant_(w, 0.3), "constant"),
    Case("eye", init.eye_, "identity"),
    Case("dirac", init.dirac_, "dirac"),
)

# All weights have 1,500 numbers or more, and most have sides that differ.
LAYERS = (
    lambda: nn.Linear(48, 32),
    lambda: nn.Linear(32, 48),
    lambda: nn.Linear(300, 5),
    lambda: nn.Linear(10, 200),
    lambda: nn.Linear(64, 64),
    lambda: nn.Linear(64, 192),
    lambda: nn.Linear(256, 192),
    lambda: nn.Conv1d(20, 16, 5),
    lambda: nn.Conv2d(32, 64, 3),
    lambda: nn.Conv2d(12, 15, 3),
    lambda: nn.Conv3d(4, 16, 3),
    lambda: nn.Conv2d(32, 64, 3, groups=4),
    lambda: nn.Conv2d(192, 192, 3, groups=192),
    lambda: nn.ConvTranspose2d(16, 32, 2),
    lambda: nn.ConvTranspose2d(32, 16, 3, groups=2),
    lambda: nn.Embedding(100, 16),
)


def applies(case: Case, weight: Tensor) -> bool:
    """Tell whether torch's initializer takes tensors of this shape."""
    if case.distribution == "dirac":
        return weight.dim() > 2
    return weight.dim() == 2 or case.distribution not in ("identity", "sparse")


def draw_all(
    rounds: int, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[Case, Origin, Fans]]:
    """Yield what was identified for each initializer on each layer."""
    for case in (*RANDOM, *FIXED):
        for make in LAYERS:
            layer = make()
            layer.bias = None
            if not applies(case, layer.weight):
                continue
            fans = compute_fans(layer.weight)
            for _ in range(rounds):
                layer.float()
                with torch.no_grad():
                    case.draw(layer.weight)
                (origin,) = identify(layer.to(dtype))
                yield case, origin, fans


def holds_truth(case: Case, origin: Origin, fans: Fans) -> bool:
    """Tell whether the true law is among the compatible ones."""
    if case.variance is None:
        return True
    longer = 1
    if case.distribution == "orthogonal":
        rows, columns = origin.shape[0], origin.numel // origin.shape[0]
        longer = max(rows, columns)
    # Laws are computed, not estimated, but the gain of an orthogonal matrix is rounded.
    return any(
        math.isclose(law.variance * longer, case.variance(fans), rel_tol=1e-6)
        for law in origin.laws
    )


def count_mistakes(rounds: int, dtype: torch.dtype = torch.float32) -> tuple[int, Counter[str]]:
    """Return the number of draws, and how often which initializer was mistaken for another."""
    draws, mistakes = 0, Counter[str]()
    for case, origin, fans in draw_all(rounds, dtype):
        draws += 1
        mistakes[f"distribution of {case.name}"] += origin.distribution != case.distribution
        mistakes[f"law of {case.name}"] += not holds_truth(case, origin, fans)
    return draws, +mistakes
