"""The rules of theory, one family a file; importing the package registers them.

`registry` is how a rule is filed and found, `reading` turns inputs into laws, and `contraction` is
what linear layers and convolutions share.
"""

from varprobe.theory.rules import (
    batch_norm,
    convolution,
    dropout,
    linear,
    max_pooling,
    normalization,
    pointwise,
    pooling,
    shape,
    sums,
)
from varprobe.theory.rules.registry import RULES, find_module_rule, find_rule, rule

__all__ = [
    "RULES",
    "batch_norm",
    "convolution",
    "dropout",
    "find_module_rule",
    "find_rule",
    "linear",
    "max_pooling",
    "normalization",
    "pointwise",
    "pooling",
    "rule",
    "shape",
    "sums",
]
