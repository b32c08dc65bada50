"""Adding gradients that are parts of one, or that belong to different features."""

from __future__ import annotations

from dataclasses import replace

from varprobe.theory.law import Gradient, join_signals


def add_parts(first: Gradient, second: Gradient) -> Gradient | None:
    """Return the sum of two parts of one gradient, or of gradients of different features.

    None where they are neither.
    """
    apart = (
        first.support is not None
        and second.support is not None
        and not bool((first.support & second.support).any())
    )
    awaited, other = first.awaited, second.awaited
    together = awaited is not None and other is not None and awaited.index is other.index
    if not apart and not together:
        return None
    support = products = None
    if apart and first.support is not None and second.support is not None:
        support = first.support | second.support
        if first.products is not None and second.products is not None:
            products = first.products + second.products
    found = replace(
        join_gradients(first.settle(), second.settle()),
        support=None if support is None or bool(support.all()) else support,
        products=products,
        awaited=awaited.merge(other) if together and awaited is not None and other else None,
    )
    return found.arrive()


def join_gradients(first: Gradient, second: Gradient) -> Gradient:
    """Return the sum of two gradients without factors that are uncorrelated, or lie apart."""
    return Gradient(
        layout=first.layout,
        signal=first.signal + second.signal,
        standing=first.standing.add(second.standing),
        signal_spread=join_signals([first, second]),
    )
