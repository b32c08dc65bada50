"""The rules of theory, one family a file; importing the package registers them.

`registry` is how a rule is filed and found, `reading` turns inputs into laws, and `contraction` is
what linear layers and convolutions share.
"""

from varprobe.theory.rules import (
    attention,
    batch_norm,
    broadcast,
    convolution,
    dropout,
    joining,
    linear,
    lookup,
    max_pooling,
    normalization,
    pointwise,
    pooling,
    products,
    recurrent,
    rotation,
    scores,
    shape,
    sums,
)
from varprobe.theory.rules.registry import RULES, find_module_rule, find_rule, rule

__all__ = [
    "RULES",
    "attention",
    "batch_norm",
    "broadcast",
    "convolution",
    "dropout",
    "find_module_rule",
    "find_rule",
    "joining",
    "linear",
    "lookup",
    "max_pooling",
    "normalization",
    "pointwise",
    "pooling",
    "products",
    "recurrent",
    "rotation",
    "rule",
    "scores",
    "shape",
    "sums",
]
