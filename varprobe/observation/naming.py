"""Name the operations that a model calls, and tell those that make new numbers.

Rearranging, copying and casting make none, nor does filling a tensor with noise or a constant: what
comes of it shows where it is used. A function that is not known makes numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

_OPERATORS = frozenset({"add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow", "matmul"})
"""What Python writes with a sign: ``__radd__`` and ``__iadd__`` are additions, too."""

_COPIES = (
    "clone contiguous to type type_as float double half bfloat16 cpu cuda detach copy deepcopy "
    "alias requires_grad view_as_real view_as_complex resolve_conj resolve_neg real imag to_dense "
    "to_sparse to_padded_tensor nested_tensor as_tensor asarray pin_memory"
)
_REARRANGEMENTS = (
    "getitem reshape view view_as reshape_as flatten unflatten ravel squeeze unsqueeze permute "
    "transpose t swapaxes swapdims movedim moveaxis adjoint narrow select slice split "
    "split_with_sizes chunk tensor_split hsplit vsplit dsplit unbind expand expand_as "
    "broadcast_to broadcast_tensors repeat repeat_interleave tile cat concat concatenate stack "
    "hstack vstack dstack column_stack roll flip fliplr flipud rot90 sort gather take "
    "take_along_dim index_select masked_select diagonal diag diag_embed unfold as_strided pad "
    "constant_pad_nd pixel_shuffle pixel_unshuffle channel_shuffle meshgrid atleast_1d "
    "atleast_2d atleast_3d block_diag combinations unique pack_padded_sequence"
)
_FILLS = (
    "fill zero normal uniform bernoulli random exponential geometric cauchy log_normal "
    "multinomial poisson set resize resize_as"
)
_SAME_NUMBERS = frozenset(f"{_COPIES} {_REARRANGEMENTS} {_FILLS}".split())

_ATTRIBUTES = frozenset({"__get__", "__len__", "__bool__", "__hash__", "__repr__", "__format__"})


@functools.lru_cache(maxsize=4096)
def name_operation(function: Callable[..., Any]) -> str | None:
    """Return the name of a function, the same one in place; None for what reads an attribute."""
    if getattr(function, "__module__", None) == "torch.nn.init":
        return "fill"  # a layer that is made in the forward
    raw = str(getattr(function, "__name__", type(function).__name__)).partition(".")[0]
    if raw in _ATTRIBUTES:
        return None
    if not raw.startswith("__"):
        return raw.rstrip("_") or raw
    bare = raw.strip("_")
    name = bare[1:] if bare[:1] in "ri" and bare[1:] in _OPERATORS else bare
    return "div" if name == "truediv" else name


def may_make_numbers(kind: str) -> bool:
    """Tell whether a function of this name may compute anything from what it is given."""
    return not (kind in _SAME_NUMBERS or kind.endswith("_like") or kind.startswith("new_"))


def is_new(tensor: torch.Tensor, given: Mapping[int, tuple[torch.Tensor, int]]) -> bool:
    """Tell whether what a function returned are numbers that it computed from others.

    Parameters
    ----------
    tensor : torch.Tensor
        What it returned.
    given : mapping of int to (torch.Tensor, int)
        Its arguments by identity, with the versions that they had before.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return False
    if id(tensor) in given:
        # In place; or it returned what it got, as dropout does in evaluation.
        return tensor.is_inference() or tensor._version != given[id(tensor)][1]
    arguments = [a for a, _ in given.values() if a.is_floating_point() or a.is_complex()]
    return bool(arguments) and not any(_share_memory(tensor, a) for a in arguments)


def _share_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    shared: bool = torch._C._is_alias_of(one, other)  # type: ignore[attr-defined]
    return shared
