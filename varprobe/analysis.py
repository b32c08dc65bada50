"""Measured against predicted, site by site, and layer by layer against the layer's own input.

Two comparisons. Against the theory: the log of the measured second moment, averaged over draws, has
the expectation ln(q) - s²/2 and the standard deviation s = log_std for one draw (a log-normal with
mean q; the finite-width factor that a single draw carries is multiplicative). Against the layer's
own input: whatever the architecture did before, the output of a Linear or ConvNd follows from the
measured energy of its input and the second moment of its weights, within a chi-square (`gains`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from varprobe.baseline import Baseline
from varprobe.errors import InvalidArgumentError
from varprobe.gains import Gain, GainTest, adjust_holm, compare_gains
from varprobe.moments import geometric_mean
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
            self.sampling_error,
        )
        return (math.log(self.ratio) + scatter * scatter / 2) / error

    @property
    def sampling_error(self) -> float:
        """Relative error of the second moment from reading samples only; 0 if all was read."""
        return math.hypot(
            *(r.second_moment_error / r.moments.second_moment / self.draws for r in self.records)
        )

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
    baseline : Baseline or None
        What the same model measured before.

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
    baseline: Baseline | None = None

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

    def test_gains(self) -> tuple[GainTest, ...]:
        """Judge the gain of every weighted layer among those of its net.

        Returns
        -------
        tuple of GainTest
            In order of depth. Each run and each step is a family of its own, over whose layers
            ``p_holm`` is adjusted (Holm 1979).

        Examples
        --------
        >>> import torch, varprobe as vp
        >>> generator = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
        >>> handle = model[1].register_forward_hook(lambda module, args, output: 1.5 * output)
        >>> analysis = vp.analyze(vp.profile(model, torch.randn(32, 64)))
        >>> [test.site.module for test in analysis.test_gains() if test.p_holm < 0.01]
        ['1']
        """
        families: defaultdict[tuple[str, int], list[tuple[Site, Gain]]] = defaultdict(list)
        for site in self.sites:
            if site.gain is not None:
                families[site.first.run, site.first.step].append((site.site, site.gain))
        return tuple(
            GainTest(run=run, step=step, site=site, gain=gain, p_holm=p)
            for (run, step), family in families.items()
            for (site, gain), p in zip(
                family, adjust_holm(gain.p for _, gain in family), strict=True
            )
        )

    @property
    def input_moment(self) -> float | None:
        """Second moment of the input, if a layer with a fan-in is the first that sees it, in a²."""
        first = next(iter(self.select(signal="activation")), None)
        records = first.records if first else ()
        known = [r.linear_input.second_moment for r in records if r.linear_input]
        return geometric_mean(known) if known else None

    def to_baseline(self) -> Baseline:
        """Return the second moments, to be saved and compared with later; see `Baseline.of`."""
        moments = {s.site: s.second_moment for s in self.sites if not s.first.backward}
        return Baseline.of(self.recording, moments, received=self.input_moment)

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


def analyze(
    recording: Recording,
    prediction: Prediction | None = None,
    *,
    baseline: Baseline | None = None,
) -> Analysis:
    """Compare what was measured with what was predicted.

    Parameters
    ----------
    recording : Recording
        From `varprobe.profile`, `varprobe.Probe`, or a file. Gains need ``stats="full"``.
    prediction : Prediction, optional
        From `varprobe.predict`. Without it the local comparison of each layer with its own input
        remains, which holds in any architecture.
    baseline : Baseline, optional
        From `varprobe.Baseline.load`: what the same model measured before.

    Returns
    -------
    Analysis
        Ratios, significances, gains; nothing is judged yet (see `varprobe.diagnose`).

    Raises
    ------
    BaselineError
        If the baseline is of another model or another experiment.

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
            gain=compare_gains(records, parameters),
            chi=chis.get((records[0].run, records[0].step, records[0].site), NAN),
        )
        for records in ordered
    )
    analysis = Analysis(recording=recording, prediction=prediction, sites=sites, baseline=baseline)
    if baseline is not None:
        baseline.require_match(analysis.to_baseline())
    return analysis


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
