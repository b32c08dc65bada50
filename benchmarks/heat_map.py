"""Draw which nets train: accuracy over gain and depth, with the verdict's boundary and theory's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from varprobe.plotting.style import COLOURS, apply_style
from varprobe.theory.mean_field import solve_mean_field

PNG = {"dpi": 130, "metadata": {"Software": None}}
"""Options of a file that is the same for the same numbers."""

TITLES = {"relu": "ReLU", "tanh": "tanh", "gelu": "GELU"}

SCALES = {"xi_gradient": ("--", "6ξ of gradients"), "xi_c": (":", "6ξ of correlations")}

PALE_BLUES = ListedColormap(colormaps["Blues"](np.linspace(0.0, 0.65, 256)))
"""Black lines can be read on all of them."""

Segment = tuple[tuple[float, float], tuple[float, float]]


def draw_heat_map(nets: pd.DataFrame, width: int = 32) -> Figure:
    """Return a figure with a panel for each activation of the plain nets.

    Parameters
    ----------
    nets : DataFrame
        Columns accuracy and flagged, by block, activation, width, depth and gain.
    width : int
        Which nets to draw.
    """
    plain = nets.xs(("plain", width), level=("block", "width"))
    shown = [name for name in TITLES if name in plain.index.get_level_values("activation")]
    with apply_style(own=True):
        figure = Figure(figsize=(1 + 3.1 * len(shown), 3.9), layout="constrained")
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, shown, strict=True):
            mesh = _draw_panel(axes, name, plain.loc[name])
            axes.set_title(TITLES[name])
            axes.set_xlabel("gain (Xavier 1, He √2)")
        panels[0].set_ylabel("layers")
        bar = figure.colorbar(mesh, ax=list(panels), label="training accuracy", pad=0.01)
        bar.set_ticks([0.1, 0.4, 0.6, 0.8], labels=["10 %", "40 %", "60 %", "≥ 80 %"])
        figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _draw_panel(axes: Axes, name: str, nets: pd.DataFrame) -> QuadMesh:
    accuracy, flagged = nets["accuracy"].unstack("gain"), nets["flagged"].unstack("gain")
    gains, depths = find_edges(accuracy.columns), find_edges(accuracy.index)
    # Nets stop when they reach the goal, a little above it.
    mesh = axes.pcolormesh(gains, depths, accuracy, vmin=0.1, vmax=0.8, cmap=PALE_BLUES)
    boundary = list(trace_boundary(flagged.to_numpy(), gains, depths))
    axes.add_collection(
        LineCollection(boundary, colors=COLOURS[1], linewidths=2.5, label="verdict")
    )
    fine = np.geomspace(gains[0], gains[-1], 241)
    fields = [solve_mean_field(name, sigma_w2=gain**2) for gain in fine]
    for scale, (style, label) in SCALES.items():
        layers = [6 * getattr(field, scale) for field in fields]
        axes.plot(fine, layers, style, color="black", linewidth=1.4, label=label)
    axes.set(xscale="log", yscale="log", xlim=gains[[0, -1]], ylim=depths[[0, -1]])
    axes.set_xticks([0.5, 1.0, 2.0**0.5, 2.0, 2.0**1.5], labels=["0.5", "1", "√2", "2", "2.8"])
    axes.set_yticks(accuracy.index, labels=map(str, accuracy.index))
    axes.minorticks_off()
    axes.grid(visible=False)
    return mesh


def find_edges(centres: Sequence[float]) -> np.ndarray:
    """Return the edges between cells on a logarithmic axis.

    Examples
    --------
    >>> find_edges([1, 4, 16]).tolist()
    [0.5, 2.0, 8.0, 32.0]
    """
    logs = np.log2(centres)
    between = (logs[1:] + logs[:-1]) / 2
    ends = 2 * logs[[0, -1]] - between[[0, -1]]
    return np.exp2([ends[0], *between, ends[1]])


def trace_boundary(
    flagged: np.ndarray, columns: Sequence[float], rows: Sequence[float]
) -> Iterator[Segment]:
    """Yield the sides at which cells (rows, columns) that are flagged meet others."""
    for row, column in np.argwhere(flagged[:, 1:] != flagged[:, :-1]):
        x = columns[column + 1]
        yield (x, rows[row]), (x, rows[row + 1])
    for row, column in np.argwhere(flagged[1:] != flagged[:-1]):
        y = rows[row + 1]
        yield (columns[column], y), (columns[column + 1], y)
