"""What the elements of a storage are, as far as an initializer has told.

A storage holds either numbers that nobody has drawn, which are then simply kept, or parts with
contents of their own: a weight, and in it a padding row; three slices of a fused projection. The
parts are labels, one for each grain of elements that have always been written together, so that
the row of an embedding of a billion numbers costs as many labels as it has rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from varprobe.initializers.capture.elements import Element, constant, numbers

MOST_NUMBERS = 1 << 24
"""Elements up to which the numbers of a storage are kept, and computed with."""

MOST_LABELS = 1 << 26
"""Parts, beyond which it is forgotten what is where."""

MOST_DISTINCT = 1024
"""Distinct numbers that may become parts when something random is written beside them."""


@dataclass(frozen=True, slots=True, eq=False)
class Lost:
    """What cannot be told, and why. Two that have the same reason are still two."""

    reason: str


UNWRITTEN = Lost("memory that nothing has written to")

Content = Element | Lost


@dataclass(frozen=True, slots=True)
class Patch:
    """What the elements of a tensor are.

    Attributes
    ----------
    contents : list of Content
        The distributions that occur.
    labels : tensor or None
        Of the shape of the tensor, an index into ``contents`` for each element; None if all are
        the first.
    """

    contents: list[Content]
    labels: Tensor | None = None


class Memory:
    """The elements of one storage."""

    def __init__(self, size: int, content: Content = UNWRITTEN) -> None:
        self.size = size
        self.numbers: Tensor | None = None
        self._fill(content)

    def _fill(self, content: Content) -> None:
        self._contents: list[Content] = [content]
        self._labels = torch.zeros(1, dtype=torch.int32)
        self._grain = max(self.size, 1)

    def forget(self, reason: str) -> None:
        """Let nothing be known of it any more."""
        self.numbers = None
        self._fill(Lost(reason))

    def keep(self, values: Tensor, view: Tensor) -> None:
        """Let all of the storage be what ``values`` are, in the geometry of ``view``."""
        self.numbers = torch.zeros(self.size, dtype=values.dtype)
        _look(self.numbers, view).copy_(values)

    def find_numbers(self, dtype: torch.dtype) -> Tensor | None:
        """Return the numbers of the storage, if it holds nothing else; they may be written to."""
        if self.numbers is None and self.size == 0:
            self.numbers = torch.zeros(0, dtype=dtype)
        elif self.numbers is None and self.size <= MOST_NUMBERS:
            held = self._contents
            if all(isinstance(content, Element) and content.is_constant for content in held):
                values = [c.loc for c in held if isinstance(c, Element)]
                table = torch.tensor(values, dtype=torch.float64).to(dtype)
                self.numbers = table[self._at_grain(1).long()]
        return self.numbers

    def write(self, view: Tensor, patch: Patch) -> None:
        """Let the elements that ``view`` sees be those of ``patch``."""
        if view.numel() == 0:
            return
        if view.numel() == self.size and patch.labels is None:
            self.numbers = None
            self._fill(patch.contents[0])
            return
        self._split_numbers()
        grain, coarse = (1, None) if patch.labels is not None else self._coarsen(view)
        if self.size // grain > MOST_LABELS:
            self._fill(Lost(f"written in parts, of which there may be {self.size // grain}"))
            return
        base = len(self._contents)
        self._contents += patch.contents
        self._labels, self._grain = self._at_grain(grain), grain
        if patch.labels is None:
            self._labels.as_strided(*coarse).fill_(base)  # type: ignore[misc]
        else:
            _look(self._labels, view).copy_(patch.labels + base)

    def read(self, view: Tensor) -> Patch:
        """Return what the elements are that ``view`` sees."""
        if self.numbers is not None:
            return self._read_numbers(_look(self.numbers, view))
        counts = self.count(view)
        if len(counts) == 1:
            return Patch([content for content, _ in counts])
        if self.size > MOST_LABELS:
            return Patch([Lost("parts of a tensor too large to follow each element")])
        return Patch(self._contents, _look(self._at_grain(1), view))

    def count(self, view: Tensor) -> list[tuple[Content, int]]:
        """Return what ``view`` sees, and how many elements of each."""
        if self.numbers is not None:
            return [(numbers(_look(self.numbers, view), id(self)), view.numel())]
        grain, coarse = self._coarsen(view)
        seen = self._at_grain(grain).as_strided(*coarse)
        labels, counts = torch.unique(seen, return_counts=True)
        each = view.numel() // max(seen.numel(), 1)
        return [
            (self._contents[label], count * each)
            for label, count in zip(labels.tolist(), counts.tolist(), strict=True)
        ]

    def _read_numbers(self, seen: Tensor) -> Patch:
        held, labels = torch.unique(seen, return_inverse=True)
        if len(held) > MOST_DISTINCT:
            return Patch([numbers(seen, id(self))])
        return Patch([constant(float(value)) for value in held], labels)

    def _coarsen(self, view: Tensor) -> tuple[int, tuple[list[int], list[int], int]]:
        """Return a grain that fits this storage and ``view``, and the view in such grains."""
        run, outer = 1, []
        for stride, size in sorted(zip(view.stride(), view.shape, strict=True)):
            if size > 1 and stride == run:
                run *= size
            elif size > 1:
                outer.append((stride, size))
        offset = int(view.storage_offset())
        grain = math.gcd(self._grain, run, offset, *(stride for stride, _ in outer))
        sizes = [*(size for _, size in outer), run // grain]
        strides = [*(stride // grain for stride, _ in outer), 1]
        return grain, (sizes, strides, offset // grain)

    def _at_grain(self, grain: int) -> Tensor:
        times = self._grain // grain
        return self._labels if times == 1 else self._labels.repeat_interleave(times)

    def _split_numbers(self) -> None:
        """Turn numbers that are kept into parts, to write something random beside them."""
        if self.numbers is None:
            return
        patch = self._read_numbers(self.numbers)
        self.numbers = None
        if patch.labels is None:
            self._fill(Lost("draws beside many different numbers"))
        else:
            self._contents, self._grain = patch.contents, 1
            self._labels = patch.labels.to(torch.int32)


def _look(flat: Tensor, view: Tensor) -> Tensor:
    """Return what ``view`` sees of a storage, of what ``flat`` says about each of its elements."""
    return flat.as_strided(view.shape, view.stride(), view.storage_offset())


def combine(patches: Sequence[Patch], shapes: Sequence[torch.Size]) -> list[Patch]:
    """Return the patches on one shape, with labels that count the combinations that occur.

    Every returned patch has as many contents as there are combinations, and the same labels.
    """
    if all(patch.labels is None for patch in patches):
        return [Patch(patch.contents[:1]) for patch in patches]
    shape = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    if math.prod(shape) > MOST_LABELS:
        return [Patch([Lost("parts of a tensor too large to follow each element")])] * len(patches)
    code = torch.zeros(shape, dtype=torch.int64)
    for patch in patches:
        code *= len(patch.contents)
        if patch.labels is not None:
            code += patch.labels
    codes, labels = torch.unique(code, return_inverse=True)
    found: list[list[Content]] = []
    for patch in reversed(patches):
        found.append([patch.contents[index] for index in (codes % len(patch.contents)).tolist()])
        codes = codes // len(patch.contents)
    return [Patch(contents, labels) for contents in reversed(found)]
