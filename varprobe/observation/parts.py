"""Which part of a distributed tensor one rank holds, and who else holds the same part."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch


class Part(NamedTuple):
    """The part of a DTensor that lies on one rank.

    ``shard`` tells the parts of one tensor apart: the rank's coordinates along the dimensions of
    the mesh over which the tensor is cut. ``ranks`` are those that hold this same part, as global
    ranks in ascending order.
    """

    shard: tuple[int, ...]
    ranks: tuple[int, ...]


def is_distributed(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is a DTensor, without loading what defines it."""
    return type(tensor).__name__ == "DTensor"


def find_part(tensor: torch.Tensor) -> Part | None:
    """Return the part of ``tensor`` that is here; None if nothing tells, or nothing is here."""
    if not is_distributed(tensor):
        return None
    distributed = cast("Any", tensor)
    coordinates = distributed.device_mesh.get_coordinate()
    if coordinates is None:
        return None
    is_cut = [not placement.is_replicate() for placement in distributed.placements]
    line = tuple(at if cut else slice(None) for at, cut in zip(coordinates, is_cut, strict=True))
    ranks = distributed.device_mesh.mesh[line].flatten().tolist()
    shard = tuple(at for at, cut in zip(coordinates, is_cut, strict=True) if cut)
    return Part(shard, tuple(sorted(ranks)))
