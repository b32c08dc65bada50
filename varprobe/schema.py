"""Every column of every frame: its name, dtype, unit and meaning. The single source.

Frames are tidy: one observation a row. What was not measured or cannot be predicted is NaN, never
0. Second moment and variance are different numbers (after a ReLU, Var/E[x²] = 1 - 1/π = 0.68) and
no column says one and holds the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

SIGNALS = ("activation", "gradient", "weight", "weight_gradient")
PHASES = ("ordered", "critical", "chaotic")
STATUSES = ("exact", "approximate", "unknown", "tainted")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a frame. ``a`` stands for the unit of the signal itself."""

    name: str
    dtype: str
    unit: str
    meaning: str
    categories: tuple[str, ...] = ()


_WHEN = (
    Column("run", "str", "", "label of one profile"),
    Column("draw", "int64", "", "index of the sample of the weights"),
    Column("step", "int64", "", "optimizer step, 0 at initialization"),
)
_WHERE = (
    Column("depth", "int64", "", "order of first execution"),
    Column("module", "str", "", "name in named_modules(), '' for the root"),
    Column("call", "int64", "", "call of this module within one root forward, -1 if unknown"),
    Column("output", "str", "", "path in the output structure, or the parameter's name"),
    Column("kind", "str", "", "class name of the module"),
    Column("signal", "category", "", "which quantity was observed", SIGNALS),
)
_MEASURED = (
    Column("numel", "int64", "", "elements pooled"),
    Column("mean", "float64", "a", "mean of the finite elements"),
    Column("variance", "float64", "a²", "mean squared deviation from the mean (correction 0)"),
    Column("second_moment", "float64", "a²", "mean of squares, q in mean-field theory"),
    Column("abs_max", "float64", "a", "largest magnitude"),
    Column("zero_fraction", "float64", "0..1", "share of exact zeros"),
    Column("nonfinite", "int64", "", "NaN and infinite elements"),
)
_PREDICTED = (
    Column("log_std", "float64", "", "std over draws of ln(measured second moment) at this width"),
    Column("status", "category", "", "how the prediction was reached", STATUSES),
)

RECORDING = (*_WHEN, *_WHERE, *_MEASURED)

PREDICTION = (
    *_WHERE,
    Column("mean", "float64", "a", "predicted mean"),
    Column("variance", "float64", "a²", "predicted variance"),
    Column("second_moment", "float64", "a²", "predicted second moment, averaged over draws"),
    *_PREDICTED,
)

ANALYSIS = (
    *RECORDING,
    Column("predicted_mean", "float64", "a", "predicted mean"),
    Column("predicted_variance", "float64", "a²", "predicted variance"),
    Column("predicted_second_moment", "float64", "a²", "predicted second moment"),
    *_PREDICTED,
    Column("ratio", "float64", "", "measured / predicted second moment, geometric mean over draws"),
    Column("z", "float64", "", "significance of ratio, in standard errors over the draws"),
    Column("gain", "float64", "", "measured second moment out / in of a weighted layer"),
    Column("predicted_gain", "float64", "", "the same from fan-in, weight variance and input"),
    Column("gain_z", "float64", "", "significance of gain against predicted_gain"),
    Column("chi", "float64", "", "gradient's second moment at the layer before / at this one"),
)

PHASE_DIAGRAM = (
    Column("sigma_w2", "float64", "", "variance of a weight times the width"),
    Column("sigma_b2", "float64", "a²", "variance of a bias"),
    Column("phase", "category", "", "what becomes of gradients and of two inputs", PHASES),
    Column("q_star", "float64", "a²", "limit of the pre-activations' second moment"),
    Column("c_star", "float64", "", "limit of the correlation of two inputs"),
    Column("chi", "float64", "", "growth of gradients' second moments per layer at q_star"),
    Column("chi_q", "float64", "", "slope of the length map at q_star"),
    Column("chi_c", "float64", "", "slope of the correlation map at c_star"),
    Column("xi_q", "float64", "layers", "in which the distance to q_star changes by a factor e"),
    Column("xi_c", "float64", "layers", "in which the distance to c_star changes by a factor e"),
    Column("xi_gradient", "float64", "layers", "in which gradients' E[g²] changes by a factor e"),
)

IDENTIFICATION = (
    Column("module", "str", "", "name in named_modules(), '' for the root"),
    Column("parameter", "str", "", "name of the parameter in it"),
    Column("kind", "str", "", "class name of the module"),
    Column("shape", "str", "", "sizes joined by ×, '' for a scalar"),
    Column("numel", "int64", "", "elements"),
    Column("mean", "float64", "1", "mean of the elements"),
    Column("std", "float64", "1", "standard deviation of the elements (correction 0)"),
    Column("distribution", "str", "", "what may have drawn it, alternatives joined by ' or '"),
    Column("laws", "str", "", "variance laws that the numbers are compatible with, best first"),
    Column("p_value", "float64", "0..1", "chance of a sample less like the distribution"),
    Column("follower", "str", "", "nonlinearity behind the layer, '' if none was found"),
    Column("expected_law", "str", "", "variance law that suits the follower, '' if there is none"),
    Column("expected_std", "float64", "1", "standard deviation by that law"),
    Column("ratio", "float64", "", "second moment / variance of the expected law"),
    Column("z", "float64", "", "significance of ratio, in standard errors of its logarithm"),
    Column("fits", "boolean", "", "whether ratio is 1 within tolerance and chance, NA without law"),
    Column("note", "str", "", "what else was seen"),
)


def build_frame(columns: Sequence[Column], rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """Build a frame with exactly these columns and dtypes.

    A float or a category that a row lacks becomes NaN; integers and strings must be there.
    """
    import pandas as pd

    rows = list(rows)
    series = {}
    for column in columns:
        values = [row.get(column.name) for row in rows]
        if column.dtype == "category":
            dtype = pd.CategoricalDtype(list(column.categories))
            series[column.name] = pd.Series(pd.Categorical(values, dtype=dtype))
        elif column.dtype == "str":
            series[column.name] = pd.Series(values, dtype=object)
        else:
            series[column.name] = pd.Series(values, dtype=column.dtype)
    return pd.DataFrame(series, columns=[column.name for column in columns])
