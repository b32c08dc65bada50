"""The variance laws that the form of a parameter allows, and which of them its numbers do.

Laws coincide by arithmetic: for a convolution 64 × 32 × 3 × 3, He's 2 / fan_out is LeCun's
1 / fan_in; in a square matrix fan_in and fan_out are one number. What comes back is a set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from varprobe.identification.recognized import Band, Recognized
from varprobe.identification.round_numbers import find_only_digit, find_roundest
from varprobe.initializers.laws import (
    WeightLaw,
    default_variance,
    kaiming_variance,
    lecun_variance,
    xavier_variance,
)

GAINS: Mapping[str, float] = {"linear": 1.0, "relu": 2.0, "tanh": 25 / 9, "selu": 9 / 16}
"""Squares of what torch.nn.init.calculate_gain returns. Sigmoid has that of a linear layer."""

SCALED_STDS = (0.02, 0.01, 0.006)
"""Standard deviations that are divided by sqrt(2 L) in L residual blocks. Radford et al. 2019,
"Language Models are Unsupervised Multitask Learners", section 2.3; 0.006 is DeepSeek's."""

USUAL_DIGITS = (1, 2, 5, 6)
"""Digits of the standard deviations that people write down: 0.02, 0.01, 0.05, 0.006."""

TORCH_DEFAULT = "torch default"

TORCHS_OWN, DRAWN, UNUSUAL, ODD = range(4)
"""How likely a law is before the numbers are seen: what torch draws unasked, what people ask for,
a round number that few write down, and one of two digits."""


@dataclass(frozen=True, slots=True)
class VarianceLaw:
    """A rule for the variance of a weight.

    Attributes
    ----------
    name : str
        For example "kaiming fan_in relu", "xavier", "std 0.02".
    variance : float
        What the rule gives for this parameter.

    Examples
    --------
    >>> VarianceLaw("lecun", 1 / 256).variance
    0.00390625
    """

    name: str
    variance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What laws read of a parameter.

    Attributes
    ----------
    fans : mapping of str to int
        Fans by name: "fan_in" and "fan_out" of the layer, and what else may be taken for them.
    pairs : mapping of str to (int, int)
        Fans that Xavier's law adds, by what stands behind its name.
    default : WeightLaw, optional
        What torch itself draws the parameter from.
    matrix : (int, int), optional
        Rows and columns of the weight, for orthogonal ones.
    depths : tuple of int
        Numbers of residual blocks that the module may be one of.
    """

    fans: Mapping[str, int] = field(default_factory=dict)
    pairs: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    default: WeightLaw | None = None
    matrix: tuple[int, int] | None = None
    depths: tuple[int, ...] = ()

    def list_laws(self, gains: Mapping[str, float]) -> Iterator[VarianceLaw]:
        """Yield the laws that depend on the form, for nonlinearities of these squared gains."""
        for name, fan in self.fans.items():
            # He's law of a linear layer is LeCun's.
            yield VarianceLaw("lecun" if name == "fan_in" else f"lecun {name}", lecun_variance(fan))
            for kind, gain in gains.items():
                if kind != "linear":
                    variance = kaiming_variance(fan, gain_squared=gain)
                    yield VarianceLaw(f"kaiming {name} {kind}", variance)
            if name != "fan_in" or self.default is None:
                # What torch does with its own layers, people copy: kaiming_uniform_(a=sqrt(5)).
                yield VarianceLaw(f"1/(3 {name})", default_variance(fan))
        for where, (fan_in, fan_out) in self.pairs.items():
            for kind, gain in gains.items():
                suffix = "" if kind == "linear" else f" {kind}"
                variance = xavier_variance(fan_in, fan_out, gain_squared=gain)
                yield VarianceLaw(f"xavier{where}{suffix}", variance)
        if "fan_in" in self.fans:
            # Nguyen and Salazar 2019 (arXiv 1910.05895), section 2.2; GPT-NeoX.
            yield VarianceLaw("small init", 2 / (5 * self.fans["fan_in"]))
        for std in SCALED_STDS:
            for depth in self.depths:
                yield VarianceLaw(f"std {std:g}/sqrt(2·{depth})", std**2 / (2 * depth))


def find_compatible(
    recognized: Recognized,
    forms: Iterable[Form],
    gains: Mapping[str, float],
    *,
    centre: float,
) -> tuple[VarianceLaw, ...]:
    """Return the laws that may have set the scale of a parameter, the likeliest first.

    What torch itself draws the parameter with comes first, then what fits best, then round numbers
    that nobody is fond of. Of these, those with two digits are named only if there is nothing else:
    of a small tensor, some always would.

    Parameters
    ----------
    recognized : Recognized
        What its numbers show.
    forms : iterable of Form
        What laws may read of it, once for each layer that uses it.
    gains : mapping of str to float
        Squared gains by nonlinearity.
    centre : float
        Mean of the numbers if it is not 0: then no law of a fan applies.
    """
    forms = tuple(forms)
    ranks: dict[VarianceLaw, tuple[int, float]] = {}
    for law in _list_defaults(recognized, forms, centre):
        ranks[law] = TORCHS_OWN, 0.0
    for band in recognized.bands:
        if band.of == "gain²":
            for law in _list_orthogonal(band, recognized.blocks, forms, gains):
                ranks[law] = DRAWN, 0.0
            continue
        drawn = () if centre else (law for form in forms for law in form.list_laws(gains))
        found = {law: DRAWN for law in drawn if band.holds(law.variance)}
        for law, rank in (found | _list_fixed(band, recognized.support, centre)).items():
            named = VarianceLaw(f"{law.name} {band.of}".rstrip(), law.variance)
            # Laws that coincide stay in their order: rounding does not decide between them.
            misfit = round(abs(math.log(law.variance / band.centre)), 9)
            ranks.setdefault(named, (rank, misfit))
    best = min((rank for rank, _ in ranks.values()), default=TORCHS_OWN)
    likeliest = sorted(ranks, key=ranks.__getitem__)
    return tuple(law for law in likeliest if ranks[law][0] < ODD or best == ODD)


def _list_defaults(
    recognized: Recognized, forms: Iterable[Form], centre: float
) -> Iterator[VarianceLaw]:
    """Yield torch's own law if it draws from such a distribution, with this scale."""
    for form in forms:
        law = form.default
        if law is None or law.mean != centre:
            continue
        alike = {"zeros", "constant"} if law.distribution == "constant" else {law.distribution}
        whole = (band for band in recognized.bands if not band.of)
        fits = not law.variance or any(band.holds(law.variance) for band in whole)
        if fits and alike & set(recognized.candidates):
            yield VarianceLaw(TORCH_DEFAULT, law.variance)


def _list_orthogonal(
    band: Band, blocks: int, forms: Iterable[Form], gains: Mapping[str, float]
) -> list[VarianceLaw]:
    named = {
        "" if k == "linear" else f" {k}": gain for k, gain in gains.items() if band.holds(gain)
    }
    if not named:
        roundest = find_roundest(math.sqrt(band.low), math.sqrt(band.high))
        named = {f" gain {gain:g}": gain**2 for gain in roundest[:1]}
    matrices = [form.matrix for form in forms if form.matrix]
    sides = {max(rows // blocks, columns) for rows, columns in matrices}
    return [
        VarianceLaw(f"orthogonal{suffix}", gain / side)
        for suffix, gain in named.items()
        for side in sides
    ]


def _list_fixed(
    band: Band, support: tuple[float, float] | None, centre: float
) -> dict[VarianceLaw, int]:
    """Return the laws that are a round number, each with its rank."""
    if support is not None and centre:
        return dict.fromkeys(_list_ends(band, *support), DRAWN)
    if support is not None:
        bounds = find_roundest(math.sqrt(3 * band.low), math.sqrt(3 * band.high))
        laws = {bound: VarianceLaw(f"bound {bound:g}", bound**2 / 3) for bound in bounds}
    else:
        about = f" about {centre:.3g}" if centre else ""
        stds = find_roundest(math.sqrt(band.low), math.sqrt(band.high))
        laws = {std: VarianceLaw(f"std {std:g}{about}", std**2) for std in stds}
    ranks = {0: ODD, **dict.fromkeys(USUAL_DIGITS, DRAWN)}
    return {law: ranks.get(find_only_digit(number), UNUSUAL) for number, law in laws.items()}


def _list_ends(band: Band, low: float, high: float) -> list[VarianceLaw]:
    """Return the uniform law between round ends just beyond the extremes, if there is one."""
    slack = (high - low) * (math.sqrt(band.high / band.low) - 1)
    lows, highs = find_roundest(low - slack, low), find_roundest(high, high + slack)
    return [VarianceLaw(f"U({a:g}, {b:g})", (b - a) ** 2 / 12) for a in lows[:1] for b in highs[:1]]
