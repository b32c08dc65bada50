"""Which layers are a stack: they do the same thing at different depths.

What is a stack is told from names, sizes and order: which output feeds which layer is not recorded.
Where nothing but `torch.nn.Sequential` holds the layers more is known: the stack is a chain, and
every signal passes each of them.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.peers import find_odd

ROLE_SIZE = 3
"""Fewest layers whose trend is one: with two there is a ratio of two numbers."""

MIN_WIDTH = 4
"""Units below which a layer is no sample: attention maps, gates, scores."""

CELLS = frozenset({"RNNCell", "GRUCell", "LSTMCell"})
"""Modules that are called step after step. Their first output is the state."""

CHAINING = "Sequential"
"""The module that calls its parts one after the other, and does nothing else."""


class Stack(NamedTuple):
    """Layers of one role, by depth."""

    sites: tuple[SiteAnalysis, ...]
    is_chain: bool
    """Whether it is known that there is no way around any of them, and all are of one size."""
    has_norms: bool
    """Whether there are norms in the chain."""
    forgets: bool
    """Whether every layer reads an input of its own, so that what came first may fade."""


def find_stacks(analysis: Analysis, run: str, *, signal: str) -> list[Stack]:
    """Return layers that do the same thing at different depths, each group by depth.

    Heads are left out, which are scaled by their own reasons: the deepest layer of all, and the
    last of a stack if its weights are of another scale. If no role repeats, layers side by side in
    one module are one stack.
    """
    kinds = {s.site.module: s.first.kind for s in analysis.select(signal="activation", run=run)}
    sites = analysis.select_weighted(signal=signal, run=run)[:-1]
    weights = [s for s in analysis.select(signal="weight", run=run) if s.first.fan_in]
    heads = {odd.site.site.module for odd in find_odd(weights) if odd.is_end}
    shown = [s for s in sites if math.isfinite(s.second_moment) and count_units(s) >= MIN_WIDTH]
    calls = [_take_first_calls(group) for group in _group_by_role(shown, kinds)]
    stacks = [group[:-1] if group[-1].site.module in heads else group for group in calls]
    groups = [group for group in stacks if len(group) >= ROLE_SIZE]
    parents = {site.site.module.rpartition(".")[0] for site in shown}
    if not groups and len(shown) >= ROLE_SIZE and len(parents) == 1:
        groups = [shown]
    groups += _find_unrolled(analysis, run, signal)
    return [_describe(group, kinds) for group in groups]


def count_units(site: SiteAnalysis) -> int:
    """Return the number of independent units at a layer's output: its channels or features."""
    shape, kind = site.first.shape, site.first.kind
    if "Conv" in kind and len(shape) > 2:
        return shape[1]
    return shape[-1] if shape else 1


def _find_unrolled(analysis: Analysis, run: str, signal: str) -> list[list[SiteAnalysis]]:
    """Return the states of each recurrent cell, step by step."""
    cells: defaultdict[str, list[SiteAnalysis]] = defaultdict(list)
    for site in analysis.select(signal=signal, run=run):
        if site.first.kind in CELLS and site.site.output in ("", "0"):
            cells[site.site.module].append(site)
    return [steps for steps in cells.values() if len(steps) >= ROLE_SIZE]


def _group_by_role(
    sites: Iterable[SiteAnalysis], kinds: Mapping[str, str]
) -> list[list[SiteAnalysis]]:
    roles: defaultdict[tuple[str, str], list[SiteAnalysis]] = defaultdict(list)
    for site in sites:
        roles[_name_role(site.site.module), site.first.kind].append(site)
    # In a chain what is named in other ways is of one role: the first layer, and those in blocks.
    # What norms take up the scale of is not compared with what they do not.
    merged: defaultdict[tuple[str, str], list[SiteAnalysis]] = defaultdict(list)
    for (role, kind), group in roles.items():
        chain = _find_chain(group, kinds)
        is_plain = chain is not None and not _has_norms(chain, kinds)
        merged[f"{chain}.*" if is_plain else role, kind] += group
    return [sorted(group, key=lambda site: site.first.depth) for group in merged.values()]


def _describe(stack: Sequence[SiteAnalysis], kinds: Mapping[str, str]) -> Stack:
    chain = _find_chain(stack, kinds)
    alike = {(site.first.kind, site.first.shape) for site in stack}
    # What is called again and again is called by something else than a Sequential.
    is_called_once = len({site.site.module for site in stack}) == len(stack)
    return Stack(
        tuple(stack),
        is_chain=chain is not None and len(alike) == 1 and is_called_once,
        has_norms=chain is not None and _has_norms(chain, kinds),
        forgets=stack[0].first.kind in CELLS,
    )


def _find_chain(stack: Iterable[SiteAnalysis], kinds: Mapping[str, str]) -> str | None:
    """Return the outermost module from which Sequentials alone lead to all layers, if any."""
    chains = {_climb(site.site.module, kinds) for site in stack}
    return chains.pop() if len(chains) == 1 else None


def _climb(module: str, kinds: Mapping[str, str]) -> str | None:
    """Return the outermost module from which Sequentials alone lead to this one; None if none."""
    chain = None
    while module:
        module = module.rpartition(".")[0]
        if kinds.get(module) != CHAINING:
            break
        chain = module
    return chain


def _has_norms(chain: str, kinds: Mapping[str, str]) -> bool:
    inside = f"{chain}." if chain else ""
    return any("Norm" in kind for name, kind in kinds.items() if name.startswith(inside))


def _take_first_calls(group: list[SiteAnalysis]) -> list[SiteAnalysis]:
    """Return one call of each module, if there are modules enough; else the calls are the depth.

    A recurrent layer goes deeper with every call; what several branches share does not. A head that
    is shared by the levels of a pyramid meets another size at each.
    """
    first = list({site.site.module: site for site in reversed(group)}.values())[::-1]
    is_recurrent = len({site.first.shape for site in group}) == 1
    return group if len(first) < ROLE_SIZE and is_recurrent else first


def _name_role(module: str) -> str:
    """Return a module's name without the numbers that count blocks.

    Inside of a block, fc1 and fc2 are two roles; at the top, conv1 and conv2 are a stack.
    """
    *blocks, name = module.split(".")
    if not blocks or name.isdigit():
        name = re.sub(r"\d+", "#", name)
    return ".".join([*(re.sub(r"\d+", "#", block) for block in blocks), name])
