"""The phase diagram of a nonlinearity: what becomes of signals over (sigma_w2, sigma_b2).

Each point of the diagram is a network, solved by `varprobe.theory.mean_field`. In the ordered phase
(chi < 1) gradients vanish and all inputs become one; in the chaotic phase (chi > 1) gradients
explode and nearby inputs part. The two meet at the edge of chaos, chi = 1, where both depth scales
of the gradient and of the correlation are infinite, and networks of any depth can be trained.

References
----------
Poole et al. 2016 (arXiv 1606.05340), figure 1; Schoenholz et al. 2017 (arXiv 1611.01232), figures 1
and 2.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from varprobe.errors import InvalidArgumentError
from varprobe.presentation import Presentable
from varprobe.schema import PHASE_DIAGRAM, PHASES, build_frame
from varprobe.theory.integrals import Nonlinearity
from varprobe.theory.mean_field import (
    INFINITE_LENGTH,
    Q_GRID,
    SAME,
    MeanField,
    seek_edge_of_chaos,
    solve_mean_field,
)
from varprobe.theory.nonlinearities import get_nonlinearity

if TYPE_CHECKING:
    import pandas as pd

SIGMA_B2 = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Variances of the biases by default: denser towards 0, where the edge of chaos bends."""

COLUMNS = 30
"""Variances of the weights by default, at most."""

BEYOND = 1.5
"""How far beyond the edge of chaos the weights go by default."""

HALVINGS = 20
"""Of the step between two weights, at the end of which activations begin to explode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseDiagram(Presentable):
    """What becomes of signals in wide random networks, over the variances of weights and biases.

    Parameters
    ----------
    nonlinearity : Nonlinearity
        φ.
    sigma_w2, sigma_b2 : tuple of float
        Variances of the weights, times the width, and of the biases, in rising order.
    points : tuple of MeanField
        The network of each pair, those of the first sigma_b2 first.
    edge : tuple of MeanField
        The edge of chaos: the network with chi = 1 and a stable second moment, for each sigma_b2
        that has one.
    unbounded_from : tuple of float
        For each sigma_b2 the sigma_w2 beyond which q_star is infinite, up to a millionth of the
        step between two sigma_w2; inf where no point of the diagram has an infinite q_star.

    Examples
    --------
    >>> import varprobe as vp
    >>> diagram = vp.map_phases("erf", sigma_w2=[0.5, 1.5, 2.5], sigma_b2=[0.05, 0.2])
    >>> diagram
    <PhaseDiagram of erf: 6 networks (3 ordered, 3 chaotic),
        edge of chaos at sigma_w2 1.376 … 1.788>
    >>> diagram.to_frame()[["sigma_w2", "sigma_b2", "phase", "xi_c"]].round(2).tail(2)
       sigma_w2  sigma_b2    phase   xi_c
    4       1.5       0.2  ordered  10.63
    5       2.5       0.2  chaotic   8.05
    """

    nonlinearity: Nonlinearity
    sigma_w2: tuple[float, ...]
    sigma_b2: tuple[float, ...]
    points: tuple[MeanField, ...]
    edge: tuple[MeanField, ...]
    unbounded_from: tuple[float, ...]

    @property
    def is_scale_invariant(self) -> bool:
        """Whether φ(a x) = a φ(x) for a > 0, as for ReLU: then chi is the same at every q."""
        ratio = self.nonlinearity.second_moment(Q_GRID) / Q_GRID
        return bool(np.ptp(ratio) <= SAME * ratio.max())

    @property
    def is_drawable(self) -> bool:
        """Whether it has two or more values along both axes."""
        return min(len(self.sigma_w2), len(self.sigma_b2)) > 1

    def select(self, sigma_b2: float) -> tuple[MeanField, ...]:
        """Return the networks with this variance of the biases, in order of sigma_w2.

        Raises
        ------
        InvalidArgumentError
            If the diagram has none.
        """
        if sigma_b2 not in self.sigma_b2:
            known = ", ".join(f"{value:g}" for value in self.sigma_b2)
            raise InvalidArgumentError(f"The diagram has sigma_b2 = {known}, not {sigma_b2:g}.")
        start = self.sigma_b2.index(sigma_b2) * len(self.sigma_w2)
        return self.points[start : start + len(self.sigma_w2)]

    def to_frame(self) -> pd.DataFrame:
        """Return a tidy frame with the columns of `varprobe.schema.PHASE_DIAGRAM`."""
        names = [column.name for column in PHASE_DIAGRAM]
        rows = ({name: getattr(network, name) for name in names} for network in self.points)
        return build_frame(PHASE_DIAGRAM, rows)

    def plot(self, **options: Any) -> object:
        """Draw the diagram and a cut through it; see `varprobe.plot_phase`."""
        import varprobe

        return varprobe.plot_phase(self, **options)

    def __repr__(self) -> str:
        counts = Counter(point.phase for point in self.points)
        counted = ", ".join(f"{counts[phase]} {phase}" for phase in PHASES if counts[phase])
        # One number where the edge of chaos is a point.
        ends = dict.fromkeys(f"{self.edge[end].sigma_w2:.4g}" for end in (0, -1) if self.edge)
        edge = f"edge of chaos at sigma_w2 {' … '.join(ends)}" if ends else "no edge of chaos"
        name, number = repr(self.nonlinearity), len(self.points)
        return f"<PhaseDiagram of {name}: {number} networks ({counted}), {edge}>"


def map_phases(
    nonlinearity: str | Nonlinearity | Callable[[Any], Any],
    *,
    sigma_w2: Iterable[float] | None = None,
    sigma_b2: Iterable[float] = SIGMA_B2,
) -> PhaseDiagram:
    """Solve wide random networks over the variances of their weights and biases.

    Says in which networks signals reach the last layer: where gradients vanish or explode, to what
    depth two inputs stay apart, and between them the edge of chaos. Needs no model and no torch.

    Parameters
    ----------
    nonlinearity : str, module, callable or Nonlinearity
        φ: a name as in ``torch.nn.functional``, with parameters as in "elu(alpha=0.5)"; a module
        such as ``nn.GELU()``; an elementwise function of numpy arrays or of torch tensors.
    sigma_w2 : iterable of float, optional
        Variances of a weight times the width, > 0. By default 30 or fewer, to 1.5 times beyond the
        edge of chaos.
    sigma_b2 : iterable of float
        Variances of a bias, ≥ 0.

    Returns
    -------
    PhaseDiagram
        With the numbers of each network, and the edge of chaos; ``plot()`` draws it.

    Raises
    ------
    InvalidArgumentError
        If a variance is out of range, or there is none.
    UnknownNameError
        If no nonlinearity has that name.

    Examples
    --------
    >>> import varprobe as vp
    >>> vp.map_phases("tanh", sigma_w2=[1.3], sigma_b2=[0.05]).points
    (MeanField(tanh, sigma_w2=1.3, sigma_b2=0.05: ordered; q*=0.3153, chi=0.8802, c*=1;
        layers: xi_q=1.79, xi_c=7.83, xi_gradient=7.83),)
    """
    phi = get_nonlinearity(nonlinearity)
    biases = _arrange("sigma_b2", sigma_b2)
    found = (seek_edge_of_chaos(phi, sigma_b2=value) for value in biases)
    edge = tuple(field for field in found if field is not None)
    weights = _choose_weights(phi, edge) if sigma_w2 is None else _arrange("sigma_w2", sigma_w2)
    rows = [[solve_mean_field(phi, sigma_w2=w, sigma_b2=b) for w in weights] for b in biases]
    return PhaseDiagram(
        nonlinearity=phi,
        sigma_w2=weights,
        sigma_b2=biases,
        points=tuple(field for row in rows for field in row),
        edge=edge,
        unbounded_from=tuple(map(_find_unbounded, rows)),
    )


def _arrange(name: str, values: Iterable[float]) -> tuple[float, ...]:
    arranged = tuple(sorted({float(value) for value in values}))
    if not arranged:
        raise InvalidArgumentError(f"{name} is empty: give at least one variance.")
    return arranged


def _choose_weights(phi: Nonlinearity, edge: tuple[MeanField, ...]) -> tuple[float, ...]:
    """Return variances of the weights on both sides of the edge, in steps of 1, 2 or 5."""
    # Without an edge: chi = 1 far out, where softplus is a ReLU.
    far = float(phi.derivative_second_moment(INFINITE_LENGTH))
    critical = max((field.sigma_w2 for field in edge), default=1 / far)
    least = BEYOND * critical / COLUMNS
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
    # Twelve digits: multiples of 0.1 are to be read as they are written.
    count = round(BEYOND * critical / step)
    return tuple(float(f"{step * number:.12g}") for number in range(1, count + 1))


def _find_unbounded(row: list[MeanField]) -> float:
    """Return the sigma_w2 beyond which q_star is infinite; it rises with sigma_w2."""
    index = next((i for i, field in enumerate(row) if math.isinf(field.q_star)), None)
    if index is None:
        return math.inf
    phi, sigma_b2, high = row[0].nonlinearity, row[0].sigma_b2, row[index].sigma_w2
    low = row[index - 1].sigma_w2 if index else 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        field = solve_mean_field(phi, sigma_w2=middle, sigma_b2=sigma_b2)
        low, high = (low, middle) if math.isinf(field.q_star) else (middle, high)
    return high
