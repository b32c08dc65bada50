"""How the figures look: colour-blind-safe colours, and a style that no user setting can change."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito (2008), without black, which is the theory's, and yellow, too pale for a line."""

MARKERS = ("o", "s", "^", "D", "v")
"""A second cue beside the colour. Their number is coprime to that of the colours: 30 pairs."""

INK_ON_LIGHT, INK_ON_DARK = "#3A3A3A", "#D8D8D8"

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#808080",
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.titlesize": 11,
    "font.size": 10,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "xtick.color": "#808080",
    "xtick.labelcolor": "black",
    "xtick.labelsize": 9,
    "ytick.color": "#808080",
    "ytick.labelcolor": "black",
    "ytick.labelsize": 9,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pen:
    """How one curve is drawn.

    Parameters
    ----------
    colour, marker : str
        Of what was measured.
    theory_colour : str
        Of what was predicted.
    has_theory_band : bool
        Whether the error band of the theory is drawn.
    """

    colour: str
    marker: str
    theory_colour: str
    has_theory_band: bool


def apply_style(*, own: bool) -> AbstractContextManager[None]:
    """Return the context to draw in: our style for a figure of ours, the user's for theirs."""
    if not own:
        return nullcontext()
    import matplotlib.style

    return matplotlib.style.context(["default", STYLE])


def choose_ink(axes: Axes) -> str:
    """Return a neutral colour that is legible on the background of ``axes``."""
    from matplotlib.colors import to_rgb

    # Weights of ITU-R BT.709.
    red, green, blue = to_rgb(axes.get_facecolor())
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return INK_ON_LIGHT if luminance > 0.5 else INK_ON_DARK


def mix(colour: str, other: str, share: float) -> str:
    """Return ``colour`` with a ``share`` of ``other`` in it."""
    from matplotlib.colors import to_hex, to_rgb

    pairs = zip(to_rgb(colour), to_rgb(other), strict=True)
    red, green, blue = ((1 - share) * first + share * second for first, second in pairs)
    return to_hex((red, green, blue))
