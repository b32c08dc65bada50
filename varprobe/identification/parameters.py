"""The parameters of a model: their numbers and the layers that use them, or why there are none."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from varprobe.identification.layout import Depths, count_siblings, describe, find_blocks
from varprobe.identification.variance_laws import Form
from varprobe.modules import compute_fans, is_lazy, name_modules
from varprobe.observation.preservation import preserved_random_states
from varprobe.recording import Unobserved
from varprobe.statistics.tensors import is_plain

DERIVED = {"weight_orig": "weight", "weight_v": "weight", "bias_orig": "bias"}
"""What prune, weight_norm and spectral_norm call a parameter that they compute another from."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A module that uses a parameter, and the names of both."""

    module: nn.Module
    name: str
    parameter: str

    @property
    def role(self) -> str:
        """Name that the parameter has in a module without hooks: "weight" for "weight_orig"."""
        return DERIVED.get(self.parameter, self.parameter)

    @property
    def label(self) -> str:
        """Name as in ``named_parameters()``."""
        return f"{self.name}.{self.parameter}" if self.name else self.parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a model, once.

    Attributes
    ----------
    owners : tuple of Owner
        The modules that use it; the first one names it.
    shape : tuple of int
        Its shape.
    values : torch.Tensor
        Its numbers, detached; without the padding row of an embedding.
    forms : tuple of Form
        What variance laws may read of it, a form for each owner.
    groups : int
        Of the convolution that it is the weight of, else 1.
    blocks : int
        Into how many equal parts along the first dimension it may fall.
    note : str
        What of it was read, if not simply all.
    """

    owners: tuple[Owner, ...]
    shape: tuple[int, ...]
    values: torch.Tensor
    forms: tuple[Form, ...]
    groups: int
    blocks: int
    note: str


def list_parameters(model: nn.Module) -> Iterator[Parameter | Unobserved]:
    """Yield every parameter once, by module; for one without numbers, why it has none.

    A parametrized weight (torch.nn.utils.parametrize) is read off a copy in eval mode: to read the
    original may change its state, as spectral_norm's power iteration does.
    """
    names = {module: name.name for module, name in name_modules(model).items()}
    depths = count_siblings(names)
    owners: dict[torch.Tensor, list[Owner]] = {}
    for module, name in names.items():
        for parameter, tensor in module.named_parameters(recurse=False):
            owners.setdefault(tensor, []).append(Owner(module, name, parameter))
    for module, name in names.items():
        for _, tensor in module.named_parameters(recurse=False):
            if tensor in owners:
                yield _read(tuple(owners.pop(tensor)), tensor, depths)
        yield from _read_parametrized(module, name, depths)
        if hasattr(module, "_packed_params") and callable(getattr(module, "weight", None)):
            # torch's quantized layers keep them where no parameter is. In this order: to look at a
            # parametrized weight would compute it.
            yield Unobserved(module=name, reason="its weights are quantized and packed")


def _read(
    owners: tuple[Owner, ...], tensor: torch.Tensor, depths: Depths, note: str = ""
) -> Parameter | Unobserved:
    first = owners[0]
    obstacle = _find_obstacle(tensor)
    if obstacle is not None:
        return Unobserved(module=first.label, reason=obstacle)
    shape = tuple(tensor.shape)
    values, padding = _drop_padding(tensor.detach(), owners)
    shared = ", ".join(owner.label for owner in owners[1:])
    notes = [note, padding, f"shared with {shared}" if shared else ""]
    return Parameter(
        owners=owners,
        shape=shape,
        values=values,
        forms=tuple(describe(o.module, o.role, shape, depths[o.module]) for o in owners),
        groups=getattr(first.module, "groups", 1) if compute_fans(first.module) else 1,
        blocks=find_blocks(first.module, first.role, shape),
        note="; ".join(filter(None, notes)),
    )


def _find_obstacle(tensor: torch.Tensor) -> str | None:
    """Return why a parameter has no numbers to judge, None if it has."""
    if is_lazy(tensor):
        return "belongs to a lazy module and has no shape yet: run the model once"
    if tensor.is_meta:
        return "is on the meta device and has no values"
    if tensor.is_complex() or not tensor.is_floating_point() or tensor.element_size() == 1:
        return f"has the dtype {tensor.dtype}, in which no initializer draws (quantized?)"
    if not is_plain(tensor):
        kind, layout = type(tensor).__name__, tensor.layout
        return f"is a {kind} of layout {layout}: sharded, quantized or sparse, no plain tensor"
    if not tensor.numel():
        return "has no elements"
    nonfinite = tensor.numel() - int(torch.isfinite(tensor.detach()).sum())
    if nonfinite:
        return f"{nonfinite} of its {tensor.numel()} numbers are not finite"
    return None


def _drop_padding(values: torch.Tensor, owners: tuple[Owner, ...]) -> tuple[torch.Tensor, str]:
    """Return an embedding without its padding row, if that is zero as torch makes it."""
    for owner in owners:
        row = getattr(owner.module, "padding_idx", None)
        embeds = isinstance(owner.module, nn.Embedding | nn.EmbeddingBag)
        if embeds and row is not None and len(values) > 1 and not values[row].any():
            others = torch.cat([values[:row], values[row + 1 :]])
            return others, f"without row {row}, the padding"
    return values, ""


def _read_parametrized(
    module: nn.Module, name: str, depths: Depths
) -> Iterator[Parameter | Unobserved]:
    if not parametrize.is_parametrized(module):
        return
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    for parameter, chain in lists.items():
        originals = list(chain.parameters(recurse=False))
        if not originals:
            continue  # it computes a buffer
        owner = Owner(module, name, parameter)
        kinds = ", ".join(type(step).__name__.lstrip("_") for step in chain.children())
        obstacle = next(filter(None, map(_find_obstacle, originals)), None)
        if obstacle is not None:
            yield Unobserved(module=owner.label, reason=obstacle)
        elif "SpectralNorm" in kinds:
            # What was drawn stands before it; behind it is that divided by its norm.
            yield _read((owner,), originals[0], depths, f"before {kinds}")
        else:
            yield _read_computed(owner, kinds, depths)


def _read_computed(owner: Owner, kinds: str, depths: Depths) -> Parameter | Unobserved:
    try:
        with torch.no_grad(), preserved_random_states():
            value: torch.Tensor = getattr(copy.deepcopy(owner.module).eval(), owner.parameter)
    except Exception as error:  # a parametrization is anybody's code
        reason = f"is computed by {kinds}, which failed on a copy: {error}"
        return Unobserved(module=owner.label, reason=reason)
    return _read((owner,), value, depths, f"behind {kinds}")
