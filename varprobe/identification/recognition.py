"""Recognise the distribution of a tensor, or of the blocks that it was put together from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from varprobe.identification.continuous import recognize_continuous
from varprobe.identification.forms import recognize_form
from varprobe.identification.numbers import Numbers
from varprobe.identification.recognized import Band, Recognized


def recognize(values: torch.Tensor, *, groups: int = 1, blocks: int = 1) -> Recognized:
    """Return the distributions that may have drawn a tensor.

    Parameters
    ----------
    values : torch.Tensor
        Detached, floating-point, finite, at least one element, in the shape that it was drawn in.
    groups : int
        Of the convolution that it is the weight of.
    blocks : int
        Number of equal parts of its first dimension that may have been drawn each for itself: the
        gates of an LSTM, queries, keys and values in one matrix. Looked at if the whole has no
        known form, or an orthogonal one, as a pile of orthogonal blocks has.

    Examples
    --------
    >>> recognize(torch.nn.init.uniform_(torch.empty(50, 50))).candidates
    ('uniform',)
    >>> gates = [torch.nn.init.orthogonal_(torch.empty(8, 8)) for _ in range(4)]
    >>> recognize(torch.cat(gates), blocks=4).note
    'each of 4 blocks'
    """
    whole = _recognize_whole(values, groups)
    if blocks == 1 or whole.candidates[0] not in ("unknown", "orthogonal"):
        return whole
    pieces = values.chunk(blocks)
    parts = [_recognize_whole(piece, 1) for piece in pieces]
    alike = all(part.is_certain and part.candidates == parts[0].candidates for part in parts)
    # Parts of one orthogonal matrix look normal, each for itself.
    if alike and whole.candidates[0] in ("unknown", parts[0].candidates[0]):
        return _join(parts, _spell(parts, pieces))
    if whole.candidates == ("unknown",) and any(part.is_certain for part in parts):
        return replace(whole, note=_spell(parts, pieces))
    return whole


def _recognize_whole(values: torch.Tensor, groups: int) -> Recognized:
    numbers = Numbers(values)
    return recognize_form(numbers, groups) or recognize_continuous(numbers)


def _join(parts: Sequence[Recognized], spelled: str) -> Recognized:
    """Return what all blocks are."""
    notes = {part.note for part in parts}
    each = f"each of {len(parts)} blocks"
    if len(notes) == 1 and parts[0].note:
        each = f"{each}: {parts[0].note}"
    constant = parts[0].candidates == ("constant",)
    return replace(
        parts[0],
        bands=_intersect(parts),
        p_value=min(part.p_value for part in parts),
        support=None,
        blocks=len(parts),
        note=spelled if constant or len(notes) > 1 else each,
    )


def _intersect(parts: Sequence[Recognized]) -> tuple[Band, ...]:
    """Return the variances that are compatible with all blocks; none if theirs differ."""
    bands = []
    for alike in zip(*(part.bands for part in parts), strict=True):
        low, high = max(band.low for band in alike), min(band.high for band in alike)
        if low <= high:
            bands.append(Band(low=low, high=high, of=alike[0].of))
    return tuple(bands)


def _spell(parts: Sequence[Recognized], pieces: Sequence[torch.Tensor]) -> str:
    seen = (
        f"constant {piece.flatten()[0].item():.6g}"
        if part.candidates == ("constant",)
        else " or ".join(part.candidates)
        for part, piece in zip(parts, pieces, strict=True)
    )
    return f"{len(parts)} blocks: {', '.join(seen)}"
