"""Reduce any tensor to dense numbers, or say why that cannot be done."""

from __future__ import annotations

from typing import NamedTuple

import torch

_OWN = (torch.Tensor, torch.nn.Parameter)
_FLOATS = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
_PLAIN_KEYS: dict[int, bool] = {}
"""Whether tensors with these dispatch keys are plain, for those that were met."""

_INFERENCE = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU).add(torch._C.DispatchKey.AutocastCPU)
_ORDINARY = _INFERENCE.add(torch._C.DispatchKey.AutogradCPU).add(
    torch._C.DispatchKey.ADInplaceOrView
)
_BARE_KEYS = frozenset((_INFERENCE.raw_repr(), _ORDINARY.raw_repr()))
"""Keys of tensors that are memory of the CPU and nothing else. A sign or a conjugation yet to be
applied, a wrapper, a layout, zeros that take no memory: each of them adds a key."""

_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


class Unmeasurable(Exception):
    """Signal a tensor without numbers to measure; the message is the reason."""


class Dense(NamedTuple):
    """Dense numbers of a tensor.

    ``values`` is a plain, detached, real floating-point tensor. ``implicit_zeros`` counts the
    elements that a sparse layout does not store.
    """

    values: torch.Tensor
    implicit_zeros: int


def is_plain(tensor: torch.Tensor) -> bool:
    """Tell whether the tensor is a dense, real, floating-point one of torch's own class."""
    if type(tensor) not in _OWN or tensor.dtype not in _FLOATS:
        return False
    # One question in place of five. A step asks for hundreds of tensors, which have two or three
    # sets of keys between them.
    keys = torch._C._dispatch_keys(tensor).raw_repr()
    plain = _PLAIN_KEYS.get(keys)
    if plain is None:
        plain = _PLAIN_KEYS[keys] = _has_plain_keys(tensor)
    return plain


def is_bare(tensor: torch.Tensor) -> bool:
    """Tell whether the tensor is plain, and its elements lie one behind the other on the CPU.

    No mode sees that it is asked, and that the memory is read.
    """
    return (
        type(tensor) in _OWN
        and torch._C._len_torch_function_stack() == 0
        and torch._C._dispatch_keys(tensor).raw_repr() in _BARE_KEYS
        and tensor.dtype in _FLOATS
        and tensor.is_contiguous()
    )


def _has_plain_keys(tensor: torch.Tensor) -> bool:
    # All of these are read off the dispatch keys.
    return (
        tensor.layout is torch.strided
        and not tensor.is_meta
        and not tensor.is_nested
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)
    )


def shape_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the shape of any tensor; the number of elements for a ragged one, which has none."""
    return (tensor.numel(),) if tensor.is_nested else tuple(tensor.shape)


def require_storage(values: torch.Tensor) -> None:
    """Raise `Unmeasurable` if the memory of a dense tensor was given back, as sharding does.

    torch itself would read at an address near zero, and the process would end there.
    """
    if values.untyped_storage().nbytes() == 0 and values.numel():
        raise Unmeasurable("its storage was freed")


def flatten(values: torch.Tensor) -> torch.Tensor:
    """Return the elements in one row, in the order in which they lie in memory.

    Memory that is dense in some order (channels last, a transpose) is not copied.
    """
    if values.is_neg():  # a sign yet to be applied, as of the imaginary part of a conjugate
        values = values.resolve_neg()
    if values.is_contiguous():
        return values.view(-1)
    dims = sorted(range(values.dim()), key=values.stride, reverse=True)
    return values.permute(dims).reshape(-1)


def to_dense(tensor: torch.Tensor) -> Dense:
    """Return the numbers of ``tensor`` as a plain floating-point tensor on its own device.

    Complex numbers become pairs of real ones, integers and booleans float64, sparse layouts their
    stored values, a shard of a distributed tensor its local part.

    Raises
    ------
    Unmeasurable
        If the tensor holds no numbers here: meta and fake tensors, partial distributed sums,
        layouts without a dense form.
    """
    try:
        return Dense(tensor.detach(), 0) if is_plain(tensor) else _convert(tensor)
    except (RuntimeError, TypeError, AttributeError) as error:
        # A user's own tensor class may refuse any step of it, and so does a tensor that torch
        # batches for a vectorized Jacobian; the run must go on.
        first_line = str(error).partition("\n")[0]
        raise Unmeasurable(
            f"a {type(tensor).__name__} of layout {tensor.layout} and dtype {tensor.dtype} "
            f"could not be read: {first_line}"
        ) from error


def _convert(tensor: torch.Tensor) -> Dense:
    values = _local(_unwrap(tensor).detach())
    if values.is_meta or _is_fake(values):
        raise Unmeasurable("a meta tensor has no values")
    values, implicit_zeros = _stored_values(values)
    if _is_wrapper(values):
        values = torch.empty(values.shape, dtype=values.dtype, device=values.device).copy_(values)
    elif type(values) is not torch.Tensor:
        values = values.as_subclass(torch.Tensor)
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    if not values.is_floating_point():
        values = values.to(torch.float64)
    elif values.element_size() == 1:
        values = values.to(torch.float32)
    return Dense(values, implicit_zeros)


def _unwrap(tensor: torch.Tensor) -> torch.Tensor:
    # Under vmap, grad and jvp a tensor is a wrapper; the numbers lie in the innermost one.
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _local(tensor: torch.Tensor) -> torch.Tensor:
    if type(tensor).__name__ != "DTensor":
        return tensor
    if any(placement.is_partial() for placement in tensor.placements):  # type: ignore[attr-defined]
        raise Unmeasurable("a DTensor with Partial placement: this rank holds only a summand")
    local: torch.Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return local


def _is_wrapper(tensor: torch.Tensor) -> bool:
    # Its class says what operations do, and has no memory of its own or not this: the result of a
    # collective that is under way, as layers of tensor parallelism return it.
    return torch._C._dispatch_keys(tensor).has(torch._C.DispatchKey.Python)


def _is_fake(tensor: torch.Tensor) -> bool:
    return type(tensor).__name__ in ("FakeTensor", "FunctionalTensor")


def _stored_values(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    if tensor.is_quantized:
        return tensor.dequantize(), 0
    if tensor.is_nested:
        if tensor.layout is torch.jagged:
            return tensor.values(), 0
        parts = [part.reshape(-1) for part in tensor.unbind()]
        return (torch.cat(parts) if parts else tensor.new_empty(0)), 0
    if tensor.layout is torch.sparse_coo:
        stored = tensor.coalesce().values()
        return stored, tensor.numel() - stored.numel()
    if tensor.layout in _COMPRESSED:
        stored = tensor.values()
        return stored, tensor.numel() - stored.numel()
    if tensor.layout is not torch.strided:
        raise Unmeasurable(f"the layout {tensor.layout} has no dense form")
    return tensor, 0
