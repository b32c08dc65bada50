"""Measured against predicted, site by site, and layer by layer against the layer's own input.

Two comparisons. Against the theory: the log of the measured second moment, averaged over draws, has
the expectation ln(q) - s²/2 and the standard deviation s = log_std for one draw (a log-normal with
mean q; the finite-width factor that a single draw carries is multiplicative). Against the layer's
own input: whatever the architecture did before, the output of a Linear or ConvNd follows from the
measured energy of its input and the second moment of its weights, within a chi-square.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from varprobe.errors import InvalidArgumentError
from varprobe.presentation import Presentable
from varprobe.recording import Record, Recording, Site
from varprobe.schema import ANALYSIS, build_frame

if TYPE_CHECKING:
    import pandas as pd

    from varprobe.theory.prediction import Prediction
    from varprobe.theory.rows import Expectation

NAN = math.nan

MODEL_ERROR = {"exact": 0.005, "approximate": 0.05}
"""Relative error of the theory itself, by status, from its Monte-Carlo tests. Behind a norm nothing
scatters over draws, and many draws average all scatter away: this is what is left."""

ANISOTROPY_ERROR = 0.05
"""Share of 1/fan_in below which the anisotropy of the inputs is not known: it is the difference of
two numbers, one of which is estimated from a sample of the windows to 1 or 2 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """The local comparison of one weighted layer.

    Parameters
    ----------
    measured : float
        Second moment of the output over that of the input.
    predicted : float
        The same from the input's energy, the weights' and the biases' second moments.
    z : float
        Significance of the difference, a standard normal if the layer is what it should be.
    """

    measured: float
    predicted: float
    z: float


@dataclass(frozen=True, kw_only=True)
class SiteAnalysis:
    """All draws of one site in one run, beside what was predicted for it.

    Parameters
    ----------
    records : tuple of Record
        One for each draw, at least one.
    expectation : Expectation or None
        What the theory says; None if it was not asked or does not know the site.
    gain : Gain or None
        The local comparison, on the activation of a Linear or ConvNd.
    chi : float
        Second moment of the gradient at the output of the weighted layer before, over that at this
        layer's output; NaN elsewhere.
    """

    records: tuple[Record, ...]
    expectation: Expectation | None = None
    gain: Gain | None = None
    chi: float = NAN

    @property
    def first(self) -> Record:
        """The record of the first draw: what all draws have in common is read off it."""
        return self.records[0]

    @property
    def site(self) -> Site:
        """Which tensor."""
        return self.first.site

    @property
    def draws(self) -> int:
        """Number of draws."""
        return len(self.records)

    @cached_property
    def second_moments(self) -> tuple[float, ...]:
        """Second moment in each draw."""
        return tuple(record.moments.second_moment for record in self.records)

    @property
    def second_moment(self) -> float:
        """Geometric mean of the second moments over the draws; 0 if one of them is 0."""
        return geometric_mean(self.second_moments)

    @property
    def variance(self) -> float:
        """Geometric mean of the variances over the draws; 0 if one of them is 0."""
        return geometric_mean(record.moments.variance for record in self.records)

    @property
    def ratio(self) -> float:
        """Measured over predicted second moment, geometric mean over the draws."""
        if self.expectation is None or not self.expectation.second_moment > 0.0:
            return NAN
        return self.second_moment / self.expectation.second_moment

    @property
    def z(self) -> float:
        """Departure of the mean log second moment from its expectation, in standard errors."""
        if self.expectation is None or not self.ratio > 0.0:
            return NAN
        scatter = self.expectation.log_std
        error = math.hypot(
            scatter / math.sqrt(self.draws),
            MODEL_ERROR[self.expectation.status],
            *(r.second_moment_error / r.moments.second_moment / self.draws for r in self.records),
        )
        return (math.log(self.ratio) + scatter * scatter / 2) / error

    @property
    def zero_fraction(self) -> float:
        """Share of exact zeros, over all draws."""
        return math.fsum(record.moments.zero_fraction for record in self.records) / self.draws

    @property
    def nonfinite(self) -> int:
        """NaN and infinite elements, over all draws."""
        return sum(record.moments.nonfinite for record in self.records)

    def to_columns(self) -> dict[str, object]:
        """Return the columns that the analysis adds to each of the records' rows."""
        known, gain = self.expectation, self.gain
        return {
            "predicted_mean": known.mean if known else NAN,
            "predicted_variance": known.variance if known else NAN,
            "predicted_second_moment": known.second_moment if known else NAN,
            "log_std": known.log_std if known else NAN,
            "status": known.status if known else None,
            "ratio": self.ratio,
            "z": self.z,
            "gain": gain.measured if gain else NAN,
            "predicted_gain": gain.predicted if gain else NAN,
            "gain_z": gain.z if gain else NAN,
            "chi": self.chi,
        }


@dataclass(frozen=True, kw_only=True)
class Analysis(Presentable):
    """A recording beside its prediction.

    Parameters
    ----------
    recording : Recording
        What was measured.
    prediction : Prediction or None
        What was predicted, if anything.
    sites : tuple of SiteAnalysis
        One for each (run, step, site), in order of depth.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    >>> inputs = torch.randn(32, 64)
    >>> analysis = vp.analyze(vp.profile(model, inputs), vp.predict(model, inputs))
    >>> layer = analysis.select_weighted(signal="activation")[0]
    >>> layer.site.module, 0.5 < layer.ratio < 2, abs(layer.gain.z) < 4
    ('0', True, True)
    """

    recording: Recording
    prediction: Prediction | None
    sites: tuple[SiteAnalysis, ...]

    def select(
        self, *, signal: str, run: str | None = None, operations: bool = False
    ) -> tuple[SiteAnalysis, ...]:
        """Return the sites of one signal, of one run or of all.

        What a module computes on its way to its output (``ops`` of `varprobe.Probe`) is left out
        unless ``operations`` asks for it: such results may be masked with infinities, or be of any
        scale, by design.
        """
        return tuple(
            s
            for s in self.sites
            if s.site.signal == signal
            and (run is None or s.first.run == run)
            and (operations or not s.site.is_operation)
        )

    def select_weighted(self, *, signal: str, run: str | None = None) -> tuple[SiteAnalysis, ...]:
        """Return the activations or gradients at the outputs of layers with a fan-in, by depth."""
        owners = {w.site.module for w in self.select(signal="weight") if w.first.fan_in}
        return tuple(s for s in self.select(signal=signal, run=run) if s.site.module in owners)

    def to_frame(self) -> pd.DataFrame:
        """Return a tidy frame with the columns of `varprobe.schema.ANALYSIS`, a row per record."""
        return build_frame(
            ANALYSIS,
            (
                {**record.to_row(), **columns}
                for columns, records in ((s.to_columns(), s.records) for s in self.sites)
                for record in records
            ),
        )

    def plot(self, **options: object) -> object:
        """Draw measured and predicted second moments over depth; see `varprobe.plot_depth`."""
        import varprobe

        draw: Any = varprobe.plot_depth
        return draw(self.recording, self.prediction, **options)

    def __repr__(self) -> str:
        compared = [s for s in self.sites if not math.isnan(s.ratio)]
        against = f"{len(compared)} of {len(self.sites)} sites with a prediction"
        model = self.recording.meta.get("model", "a model")
        return f"<Analysis of {model}: {self.recording.draws} draw(s), {against}>"


def analyze(recording: Recording, prediction: Prediction | None = None) -> Analysis:
    """Compare what was measured with what was predicted.

    Parameters
    ----------
    recording : Recording
        From `varprobe.profile`, `varprobe.Probe`, or a file. Gains need ``stats="full"``.
    prediction : Prediction, optional
        From `varprobe.predict`. Without it the local comparison of each layer with its own input
        remains, which holds in any architecture.

    Returns
    -------
    Analysis
        Ratios, significances, gains; nothing is judged yet (see `varprobe.diagnose`).

    Notes
    -----
    The local test: let h_p be the input's windows at the output positions, G = h hᵀ their Gram
    matrix, a = w² mean|h|² with w² the *measured* second moment of the weights, and n_out the
    number of output channels. The second moment of the outputs has the expectation a + b², and
    over weights of any isotropic law with this w² the variance

        (2 a² (tr G²/(tr G)² - 1/fan_in) + 4 a b² |mean h|²/mean|h|²) / n_out.

    The first term is that of a quadratic form on a sphere (the weights' own scale is known, so that
    only its anisotropy is left to chance), the second that of the cross term with the bias. It is
    matched by a chi-square (Satterthwaite 1946), which Wilson and Hilferty's cube root (1931, eq.
    8) turns into a standard normal.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh())
    >>> vp.analyze(vp.profile(model, torch.randn(32, 64)))
    <Analysis of Sequential: 1 draw(s), 0 of 10 sites with a prediction>
    """
    if not isinstance(recording, Recording):
        raise InvalidArgumentError(
            f"Expected a Recording (from vp.profile or probe.recording), got "
            f"{type(recording).__name__}."
        )
    groups: defaultdict[tuple[str, int, Site, int], list[Record]] = defaultdict(list)
    for record in recording:
        groups[record.run, record.step, record.site, record.backward].append(record)
    ordered = sorted(groups.values(), key=lambda records: records[0].depth)
    chis = _compute_chis(ordered)
    parameters = {
        (r.run, r.draw, r.step, r.site.module, r.site.output): r
        for r in recording.select(signal="weight")
    }
    expected = {} if prediction is None else {row.site: row for row in prediction}
    sites = tuple(
        SiteAnalysis(
            records=tuple(records),
            expectation=expected.get(records[0].site),
            gain=_compare_gains(records, parameters),
            chi=chis.get((records[0].run, records[0].step, records[0].site), NAN),
        )
        for records in ordered
    )
    return Analysis(recording=recording, prediction=prediction, sites=sites)


def geometric_mean(values: Iterable[float]) -> float:
    """Return exp(mean(ln x)); 0 if a value is 0, NaN if one is NaN or there are none."""
    numbers = list(values)
    if not numbers or any(math.isnan(x) for x in numbers):
        return NAN
    if any(x <= 0.0 for x in numbers):
        return 0.0
    return math.exp(math.fsum(map(math.log, numbers)) / len(numbers))


_Parameters = dict[tuple[str, int, int, str, str], Record]


def _compare_gains(records: Sequence[Record], parameters: _Parameters) -> Gain | None:
    gains = [gain for record in records if (gain := _compare_gain(record, parameters))]
    if not gains:
        return None
    # Draws are independent: Stouffer's sum of their scores is a standard normal again.
    return Gain(
        measured=geometric_mean(gain.measured for gain in gains),
        predicted=geometric_mean(gain.predicted for gain in gains),
        z=math.fsum(gain.z for gain in gains) / math.sqrt(len(gains)),
    )


def _compare_gain(record: Record, parameters: _Parameters) -> Gain | None:
    received, where = record.linear_input, (record.run, record.draw, record.step)
    weight = parameters.get((*where, record.site.module, "weight"))
    if received is None or weight is None or not weight.shape:
        return None
    bias = parameters.get((*where, record.site.module, "bias"))
    driven = weight.moments.second_moment * received.energy
    constant = bias.moments.second_moment if bias else 0.0
    expected = driven + constant
    measured = record.moments.second_moment
    if not driven > 0.0 or not math.isfinite(measured):
        return None
    isotropic = 1.0 / (weight.fan_in or 1)
    anisotropy = max(1.0 / received.effective_samples - isotropic, ANISOTROPY_ERROR * isotropic)
    crossed = 4.0 * driven * constant * received.common_energy / received.energy
    variance = (2.0 * driven * driven * anisotropy + crossed) / weight.shape[0]
    variance += (weight.second_moment_error * received.energy) ** 2
    return Gain(
        measured=measured / received.second_moment,
        predicted=expected / received.second_moment,
        z=_score_chi_square(measured / expected, variance / (expected * expected)),
    )


def _score_chi_square(ratio: float, relative_variance: float) -> float:
    """Return the normal score of ratio = χ²_ν/ν with ν = 2 / relative_variance."""
    ninth = relative_variance / 9.0
    return (math.cbrt(ratio) - (1.0 - ninth)) / math.sqrt(ninth)


def _compute_chis(groups: Sequence[Sequence[Record]]) -> dict[tuple[str, int, Site], float]:
    """Return, by the activation of a weighted layer, the growth of the gradient through it."""
    owners = {g[0].site.module for g in groups if g[0].fan_in is not None}
    chis: dict[tuple[str, int, Site], float] = {}
    before: dict[tuple[str, int], float] = {}
    for records in groups:
        record, site = records[0], records[0].site
        if site.signal != "gradient" or site.module not in owners or record.backward:
            continue
        if site.is_operation:
            continue  # it lies inside of the layer
        here = geometric_mean(r.moments.second_moment for r in records)
        previous = before.get((record.run, record.step), NAN)
        activation = Site(module=site.module, call=site.call, output=site.output)
        chis[record.run, record.step, activation] = previous / here if here else NAN
        before[record.run, record.step] = here
    return chis
