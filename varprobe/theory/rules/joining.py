"""Arrays side by side: cat and stack, along positions or along features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import Field
from varprobe.theory.explicit import ExplicitPairs
from varprobe.theory.fluctuations import Spread, realize
from varprobe.theory.law import Downstream, Gradient, Known, Law, Noise, Step, Value
from varprobe.theory.layout import Axis, Dim, Layout, Role
from varprobe.theory.mixing import Mixing, join_features
from varprobe.theory.pairs import MOST_EXPLICIT, Pairs, choose_dtype
from varprobe.theory.rules.broadcast import keep
from varprobe.theory.rules.features import count_around
from varprobe.theory.rules.reading import read_like
from varprobe.theory.rules.registry import rule
from varprobe.theory.rules.samples import needs_telling, tell_apart
from varprobe.theory.standing import Standing

aten = torch.ops.aten


@rule(aten.cat)
def cat(tensors: Sequence[Value], dim: int = 0) -> Step:
    """Return the arrays one behind the other along a dimension."""
    filled = [not (isinstance(t, Known) and t.tensor.numel() == 0) for t in tensors]
    if not all(filled):
        return _skip_empty(tensors, filled, dim)
    laws = _read_all(tensors)
    steps = _tell_apart(laws)
    if steps is not None:
        joined = cat([step.output for step in steps], dim)  # type: ignore[misc]
        return _chain(steps, joined)
    dim %= len(laws[0].layout.dims)
    dims = [law.layout.dims[dim] for law in laws]
    roles = {axis.role for axes in dims for axis in axes}
    # An axis of size 1 is not written down; along positions, so is a class token.
    if roles == {Role.FEATURE} and all(dims):
        return _join_features(laws, dim)
    if roles <= {Role.POSITION} and dim > 0:
        return _join_positions(laws, dim)
    raise MissingRuleError("arrays are joined along samples")


@rule(aten.stack)
def stack(tensors: Sequence[Value], dim: int = 0) -> Step:
    """Return the arrays along a new dimension: features of one layer, apart."""
    laws = _read_all(tensors)
    count = len(laws[0].layout.dims)
    dim %= count + 1
    if dim != count or not laws[0].layout.only(count - 1, Role.FEATURE):
        raise MissingRuleError("arrays are stacked but not along features")
    wide = [_append_axis(law) for law in laws]
    return _join_features(wide, dim, width=1)


def _read_all(tensors: Sequence[Value]) -> list[Law]:
    known = next((t for t in tensors if isinstance(t, Law)), None)
    if known is None:
        raise MissingRuleError("no array with a law among those that are joined")
    laws = [read_like(t, known) if isinstance(t, Known | Noise) else t for t in tensors]
    found = [law for law in laws if isinstance(law, Law)]
    if len(found) < len(laws) or len({len(law.layout.dims) for law in found}) > 1:
        raise MissingRuleError("not all that is joined has a law")
    return found


def _skip_empty(tensors: Sequence[Value], filled: Sequence[bool], dim: int) -> Step:
    """Return the rest joined: a cache of keys that is still empty adds nothing."""
    rest = [tensor for tensor, kept in zip(tensors, filled, strict=True) if kept]
    joined = keep(rest[0]) if len(rest) == 1 and isinstance(rest[0], Law) else cat(rest, dim)
    inner = joined.backward
    assert inner is not None

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        parts = iter(inner(gradient))
        return [next(parts) if kept else None for kept in filled]

    return Step(joined.output, backward)


def _tell_apart(laws: Sequence[Law]) -> list[Step] | None:
    """Return the arrays with samples told apart, if some of them have that and others not."""
    told = [any(needs_telling(law.layout, other.layout) for other in laws) for law in laws]
    if not any(told):
        return None
    return [
        tell_apart(law) if needed else keep(law) for law, needed in zip(laws, told, strict=True)
    ]


def _chain(steps: Sequence[Step], joined: Step) -> Step:
    inner = joined.backward
    assert inner is not None

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        parts = inner(gradient)
        return [s.backward(p)[0] for s, p in zip(steps, parts, strict=True)]  # type: ignore[misc]

    return Step(joined.output, backward)


def _append_axis(law: Law) -> Law:
    return replace(law, layout=Layout((*law.layout.dims, ())))


def _join_features(laws: Sequence[Law], dim: int, width: int | None = None) -> Step:
    """Return features side by side; where their laws differ, the average stands for all.

    ``width`` is the size of the joined dimension in each part, where it is 1 and not written down.
    """
    first = laws[0]
    others = [d for d in range(len(first.layout.dims)) if d != dim]
    if any(law.layout.dims[d] != first.layout.dims[d] for law in laws for d in others):
        raise MissingRuleError("arrays are joined whose axes differ")
    sizes = [width or count_around(law, dim)[1] for law in laws]
    axes: Dim = (Axis(Role.FEATURE, sum(sizes)),)
    layout = first.layout.replace(dim, axes)
    outer, _, inner = count_around(first, dim)
    mixing = _mix([law.mixed for law in laws], outer, inner)
    output = _average(laws, sizes, layout, mixing)
    numbers = torch.arange(output.features).view(outer, -1, inner)

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        settled = gradient.settle()
        found = []
        chosen_of = torch.split(numbers, sizes, dim=1)
        for number, (law, chosen) in enumerate(zip(laws, chosen_of, strict=True)):
            awaited = settled.awaited
            if awaited is not None and law.mixed is not None and mixing is not None:
                share = awaited.gathered * law.features // output.features
                awaited = awaited.arrive(law.mixed, share)
            support, level = None, 1.0
            if settled.support is not None:
                support = settled.support[chosen.flatten()]
                level = float(support.double().mean() / settled.support.double().mean())
            # A signal of its own: the gradients of two parts are not one and the same.
            part = replace(
                settled,
                layout=law.layout if width is None else _strip(law.layout),
                signal=settled.signal * level,
                standing=settled.standing.set_apart(number),
                support=support,
                awaited=awaited,
                products=None,
            )
            found.append(part.arrive())
        return found

    return Step(output, backward)


def _strip(layout: Layout) -> Layout:
    return Layout(layout.dims[:-1])


def _mix(parts: Sequence[Mixing | None], outer: int, inner: int) -> Mixing | None:
    known = [part for part in parts if part is not None]
    return join_features(known, outer, inner) if len(known) == len(parts) else None


def _average(
    laws: Sequence[Law], sizes: Sequence[int], layout: Layout, mixing: Mixing | None
) -> Law:
    fields = [law.settle() for law in laws]
    total = sum(sizes)
    shares = [size / total for size in sizes]
    pairs = fields[0].pairs * shares[0]
    means = fields[0].means * shares[0]
    for field, share in zip(fields[1:], shares[1:], strict=True):
        pairs = pairs + field.pairs * share
        means = means + field.means * share
    alike = all(torch.allclose(f.pairs.values, pairs.values, rtol=1e-6) for f in fields)
    standing = _merge(laws)
    spreads = [realize(law.spread, law.pairs, law.features) for law in laws]
    weights = [
        s * f.pairs.mean / max(pairs.mean, 1e-300) for s, f in zip(shares, fields, strict=True)
    ]
    spread = Spread(
        kernel=sum(w**2 * s.kernel for w, s in zip(weights, spreads, strict=True)),
        gram=sum(w**2 * s.gram for w, s in zip(weights, spreads, strict=True)),
    )
    return Law(
        layout=layout,
        field=Field(pairs, means, gaussian=alike and all(f.gaussian for f in fields)),
        standing=standing,
        field_spread=spread,
        mixing=mixing,
    )


def _merge(laws: Sequence[Law]) -> Standing:
    fresh = laws[0].standing.fresh
    for law in laws[1:]:
        fresh &= law.standing.fresh
    merged = laws[0].standing.merge(*(law.standing for law in laws[1:]))
    return replace(merged, fresh=fresh)


def _join_positions(laws: Sequence[Law], dim: int) -> Step:
    """Return positions behind each other; those of different arrays must be uncorrelated."""
    first = laws[0]
    others = [d for d in range(len(first.layout.dims)) if d != dim]
    if any(law.layout.dims[d] != first.layout.dims[d] for law in laws for d in others):
        raise MissingRuleError("arrays are joined whose axes differ")
    _check_independent(laws)
    sizes = [law.layout.positions_of(dim) for law in laws]
    layout = first.layout.replace(dim, (Axis(Role.POSITION, sum(sizes)),))
    grid = layout.index_positions()
    places = [piece.flatten() for piece in torch.split(grid, sizes, dim=dim)]
    count = grid.numel()
    if count > MOST_EXPLICIT:
        raise MissingRuleError("more positions than can be told apart in pairs")
    fields = [law.settle() for law in laws]
    means = torch.zeros(count, dtype=torch.float64)
    for field, place in zip(fields, places, strict=True):
        means[place] = field.means
    pairs = _join_pairs([field.pairs for field in fields], places, means)
    weights = [
        len(p) * f.pairs.mean / max(count * pairs.mean, 1e-300)
        for p, f in zip(places, fields, strict=True)
    ]
    spreads = [realize(law.spread, law.pairs, law.features) for law in laws]
    output = Law(
        layout=layout,
        field=Field(pairs, means, gaussian=all(field.gaussian for field in fields)),
        standing=_merge(laws),
        field_spread=Spread(
            kernel=sum(w**2 * s.kernel for w, s in zip(weights, spreads, strict=True)),
            gram=sum(w**2 * s.gram for w, s in zip(weights, spreads, strict=True)),
        ),
    )

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        settled = gradient.settle()
        return [
            replace(settled, layout=law.layout, signal=settled.signal.gather(place))
            for law, place in zip(laws, places, strict=True)
        ]

    return Step(output, backward)


def _check_independent(laws: Sequence[Law]) -> None:
    for i, law in enumerate(laws):
        for other in laws[:i]:
            dead = law.pairs.mean == 0 or other.pairs.mean == 0
            if not dead and not law.standing.is_uncorrelated(other.standing):
                raise MissingRuleError("positions are joined that are not independent")


def _join_pairs(
    parts: Sequence[Pairs], places: Sequence[torch.Tensor], means: torch.Tensor
) -> Pairs:
    """Return the pairs of all positions: those of each array, products of means between arrays."""
    samples = max(part.samples for part in parts)
    if any(part.samples != samples for part in parts):
        raise MissingRuleError("arrays are joined whose samples differ")
    values = torch.outer(means, means).expand(2, -1, -1).to(choose_dtype(len(means))).clone()
    for part, place in zip(parts, places, strict=True):
        block = part.to_explicit().values.to(values.dtype)
        values[:, place[:, None], place] = block
    return ExplicitPairs(values, samples)
