"""Attention written by hand: what is done to the products of queries and keys.

Views, factors, masks, softmax, dropout and the product with the values are remembered or carried
out; any other operation on scores has no rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch._ops import OpOverload

from varprobe.errors import MissingRuleError
from varprobe.registry import Registry
from varprobe.theory.law import Downstream, Known, Law, Step, Value
from varprobe.theory.rules.attention import gather, multiply, read_bias
from varprobe.theory.rules.registry import Rule, rule
from varprobe.theory.rules.shape import COPIES, PERMUTATIONS, VIEWS, result_shape
from varprobe.theory.scores import Bend, Scores, ScoresGradient

aten = torch.ops.aten

SCORE_RULES: Registry[object, Rule] = Registry("rule of theory for scores of attention")
"""Rules by aten operation for arguments among which there are scores."""

HIDDEN = -1e4
"""Numbers up to this hide a key from a softmax, as minus infinity does."""


def find_score_rule(op: OpOverload) -> Rule | None:
    """Return the rule of an overload, else of all overloads of its name."""
    return SCORE_RULES.get(op) or SCORE_RULES.get(op.overloadpacket)


@rule(aten.bmm)
def batch_product(x: Value, y: Value) -> Step:
    """Return x y, queries times keys."""
    if not isinstance(x, Law) or not isinstance(y, Law):
        raise MissingRuleError("a product of arrays without laws")
    return multiply_transposed(x, y)


def multiply_transposed(x: Law, y: Law) -> Step:
    """Return x y, where y holds keys with their sites last."""
    dims = len(y.layout.dims)
    if dims < 2:
        raise MissingRuleError("a product of arrays that are no queries and keys")
    order = [*range(dims - 2), dims - 1, dims - 2]
    layout, index = y.layout.permute(order)
    if not bool((index == torch.arange(len(index))).all()):
        raise MissingRuleError("a product of arrays that are no queries and keys")
    products = multiply(x, replace(y, layout=layout))

    def backward(gradient: ScoresGradient) -> Sequence[Downstream]:
        return [gradient.query, replace(gradient.key, layout=y.layout)]

    return Step(products.output, backward)


@rule(aten.baddbmm)
def add_batch_product(
    added: Value, x: Value, y: Value, *, beta: float = 1.0, alpha: float = 1.0
) -> Step:
    """Return beta bias + alpha x y, queries times keys."""
    step = batch_product(x, y)
    scores = step.output
    assert isinstance(scores, Scores)
    scores = scores.multiply(alpha)
    if beta:
        scores = scores.add(read_bias(added, scores) * beta)
    assert step.backward is not None
    inner = step.backward
    return Step(scores, lambda gradient: [None, *inner(gradient)])


@SCORE_RULES.register(aten.matmul, aten.bmm)
def weigh(weights: Value, value: Value) -> Step:
    """Return A V."""
    if not isinstance(weights, Scores) or not isinstance(value, Law):
        raise MissingRuleError("scores are multiplied with something that is no value")
    return gather(weights, value)


@SCORE_RULES.register(*COPIES)
def copy(x: Scores, *_: Any, **__: Any) -> Scores:
    """Return the same array."""
    return x


def _view(op: Any, x: Scores, *args: Any) -> Step:
    shape = result_shape(op, x.layout.shape, *args)
    return _pass(replace(x, layout=x.layout.view(shape)))


def _permute(op: Any, x: Scores, *args: Any) -> Step:
    """Return x with dimensions of size 1 elsewhere."""
    marked = torch.empty([2 + d for d in range(len(x.layout.dims))], device="meta")
    order = [size - 2 for size in op(marked, *args).shape]
    moved = [d for d in order if x.layout.dims[d]]
    if moved != sorted(moved):
        raise MissingRuleError("scores whose dimensions change their order")
    return _pass(replace(x, layout=x.layout.permute(order)[0]))


def _pass(scores: Scores, factor: float = 1.0, before: int = 0) -> Step:
    """Return scores that are others times a factor, ``before`` other tensors in the operation."""

    def backward(gradient: ScoresGradient) -> Sequence[Downstream]:
        return [*[None] * before, replace(gradient, level=gradient.level.times(factor))]

    return Step(scores, backward)


@SCORE_RULES.register(aten.mul.Tensor, aten.mul_.Tensor)
def scale(x: Value | float, y: Value | float) -> Step:
    """Return scores times a number."""
    scores, other, before = _find_scores(x, y)
    factor = _read_number(other)
    _check_plain(scores)
    return _pass(scores.multiply(factor), factor, before)


@SCORE_RULES.register(aten.div.Tensor, aten.div_.Tensor)
def divide(x: Value | float, y: Value | float) -> Step:
    """Return scores divided by a number."""
    if not isinstance(x, Scores):
        raise MissingRuleError("a division by scores")
    factor = 1 / _read_number(y)
    _check_plain(x)
    return _pass(x.multiply(factor), factor)


@SCORE_RULES.register(aten.add.Tensor, aten.add_.Tensor)
def add(x: Value | float, y: Value | float, alpha: float = 1.0) -> Step:
    """Return scores and a bias."""
    scores, bias, before = _find_scores(x, y)
    _check_plain(scores)
    if before and alpha != 1.0:
        raise MissingRuleError("scores with a factor in a sum")
    return _pass(scores.add(_read_array(bias, scores) * alpha), before=before)


@SCORE_RULES.register(aten.tanh, aten.tanh_)
def cap(x: Value) -> Step:
    """Return the tanh of scores, which keeps them from growing (Gemma 2)."""
    if not isinstance(x, Scores) or x.bias is not None or x.bend is not None:
        raise MissingRuleError("a tanh of something else than scaled products")
    _check_plain(x)
    bend = Bend(torch.tanh, x.scale)
    bent = replace(x, bend=bend, scale=1.0)

    def backward(gradient: ScoresGradient) -> Sequence[Downstream]:
        steep = bent.measure(replace(bent, bend=bend.steepen())).mean / bend.scale**2
        return [replace(gradient, level=gradient.level.times(math.sqrt(steep)))]

    return Step(bent, backward)


@SCORE_RULES.register(aten.masked_fill, aten.masked_fill_)
def fill(x: Value, mask: Value, number: Value | float) -> Step:
    """Return scores, where the mask is true a number that hides them."""
    return _pass(_hide(x, mask, number))


@SCORE_RULES.register(aten.where)
def where(shown: Value, x: Value | float, y: Value | float) -> Step:
    """Return scores, elsewhere a number that hides them."""
    if not isinstance(shown, Known):
        raise MissingRuleError("a mask without numbers of its own")
    before = sum(
        isinstance(value, Known) for value in (shown, *(() if isinstance(x, Scores) else (x,)))
    )
    if isinstance(x, Scores):
        return _pass(_hide(x, Known(~shown.tensor.bool()), y), before=before)
    return _pass(_hide(y, shown, x), before=before)


def _hide(x: object, mask: Value, number: Value | float) -> Scores:
    if not isinstance(x, Scores) or not isinstance(mask, Known):
        raise MissingRuleError("a mask without numbers of its own")
    _check_plain(x)
    if _read_number(number) > HIDDEN:
        raise MissingRuleError(f"scores are filled with a number above {HIDDEN:g}")
    bias = read_bias(Known(~mask.tensor.bool()), x)
    _check_seen(bias)
    return x.add(bias)


def _check_seen(bias: torch.Tensor) -> None:
    """Refuse queries that see no key: by hand they get not a number, or all keys alike."""
    if bool((bias == -math.inf).all(-1).any()):
        raise MissingRuleError("a query that sees no key")


@SCORE_RULES.register(aten._softmax)
def soften(x: Value, dim: int, half_to_float: bool = False) -> Step:  # noqa: ARG001
    """Return the softmax over the keys."""
    if not isinstance(x, Scores) or dim % len(x.layout.dims) != len(x.layout.dims) - 1:
        raise MissingRuleError("a softmax over something else than the keys")
    _check_plain(x)
    if x.bias is not None:
        _check_seen(x.bias)

    def backward(gradient: ScoresGradient) -> Sequence[Downstream]:
        return [replace(gradient, level=gradient.softened)]

    return Step(replace(x, softened=True), backward)


@SCORE_RULES.register(aten.dropout, aten.dropout_)
def drop(x: Value, p: float, train: bool) -> Value | Step:
    """Return weights times independent Bernoulli(1 - p) / (1 - p)."""
    if not train or p == 0:
        return x
    if not isinstance(x, Scores) or not x.softened or x.keep < 1 or p == 1:
        raise MissingRuleError("a dropout that is not that of attention weights")

    def backward(gradient: ScoresGradient) -> Sequence[Downstream]:
        return [replace(gradient, level=gradient.dropped)]

    return Step(replace(x, keep=1 - p), backward)


def _check_plain(x: Scores) -> None:
    if x.softened:
        raise MissingRuleError("attention weights are changed behind their softmax")


def _find_scores(x: Any, y: Any) -> tuple[Scores, Any, int]:
    """Return the scores among two arguments, the other, and how many tensors come before them."""
    if isinstance(x, Scores):
        return x, y, 0
    return y, x, int(not isinstance(x, int | float))


def _read_number(value: Any) -> float:
    if isinstance(value, Known) and value.tensor.numel() == 1:
        return float(value.tensor)
    if isinstance(value, int | float):
        return float(value)
    raise MissingRuleError("scores meet something that is no number")


def _read_array(value: Any, scores: Scores) -> torch.Tensor:
    if isinstance(value, int | float):
        return torch.full((1, 1, 1, 1, 1), float(value))
    if isinstance(value, Known) and value.tensor.dtype == torch.bool:
        value = Known(value.tensor.float())
    return read_bias(value, scores)


def _file(ops: Sequence[Any], body: Callable[..., Step]) -> None:
    for op in ops:
        SCORE_RULES.register(op)(_bind(body, op))


def _bind(body: Callable[..., Step], op: Any) -> Rule:
    return lambda *args: body(op, *args)


_file(VIEWS, _view)
_file(PERMUTATIONS, _permute)
