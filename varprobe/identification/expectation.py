"""The variance that a layer's weights should have for the nonlinearity behind it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from varprobe.identification.variance_laws import VarianceLaw
from varprobe.initializers.laws import kaiming_variance
from varprobe.modules import WEIGHTED, compute_fans, name_modules
from varprobe.recording import Record, Recording
from varprobe.theory.followers import Role, find_followers, find_wanted_gain
from varprobe.theory.integrals import Nonlinearity
from varprobe.theory.nonlinearities import NONLINEARITIES, from_module, get_nonlinearity

FUNCTIONS = frozenset(
    {"relu", "relu6", "selu", "gelu", "silu", "mish", "tanh", "hardswish", "softsign", "erf"}
)
"""Nonlinearities that the name of a function tells. Others are called with a slope or the like,
which is not known; a sigmoid is often half of something else: x σ(x), a gate."""

PRODUCTS = frozenset({"mul", "div", "pow", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum"})
LAYERS = frozenset({"linear", "bilinear", "softmax", "scaled_dot_product_attention"})
"""Functions whose result has a scale of its own. What comes behind says nothing of the layer before
them. So do convolutions and what is called a norm."""

Followers = Mapping[str, Nonlinearity]
"""The nonlinearity behind each layer that has one."""


def list_nonlinearities(model: nn.Module) -> dict[str, Nonlinearity]:
    """Return the nonlinearities of a model by the names of their modules."""
    found = ((name.name, from_module(module)) for module, name in name_modules(model).items())
    return {name: known for name, known in found if known is not None and known.name != "identity"}


def follow_calls(model: nn.Module, recording: Recording) -> Followers:
    """Return the followers in the order of calls.

    Parameters
    ----------
    model : nn.Module
        The model.
    recording : Recording
        Of one forward pass, with operations.
    """
    roles, modules = _assign_roles(model), list_nonlinearities(model)
    calls = sorted(recording.select(signal="activation"), key=lambda record: record.depth)
    # What a nonlinearity is made of inside is no news.
    outer = [r for r in calls if not (r.site.is_operation and r.site.module in modules)]
    names = {str(r.site): r for r in outer}
    behind = find_followers((name, _judge(record, roles)) for name, record in names.items())
    return {
        names[layer].site.module: modules.get(follower.site.module)
        or get_nonlinearity(follower.kind)
        for layer, name in behind.items()
        for follower in [names[name]]
    }


def follow_registration(model: nn.Module) -> Followers:
    """Return the followers in the order that modules were made.

    In a Sequential that is the order of calls. Elsewhere it may not be: of two layers that one
    module registers before its activation (a gated or a two-layer perceptron), which one feeds it
    is unknown, and neither is in the result.
    """
    roles = {name: role for name, role in _assign_roles(model).items() if role != "other"}
    before = dict(zip(list(roles)[1:], roles, strict=False))
    modules = {name.name: module for module, name in name_modules(model).items()}
    nonlinearities = list_nonlinearities(model)
    return {
        layer: nonlinearities[follower]
        for layer, follower in find_followers(roles.items()).items()
        if not _compete(before.get(layer), layer, modules, roles)
    }


def expect(module: nn.Module, follower: Nonlinearity) -> VarianceLaw | None:
    """Return the fan-in law of a layer that suits the nonlinearity behind it; None without fans."""
    fans = compute_fans(module)
    if fans is None:
        return None
    gain_squared = find_wanted_gain(follower) ** 2
    variance = kaiming_variance(fans[0], gain_squared=gain_squared)
    return VarianceLaw(f"{gain_squared:.3g}/fan_in", variance)


def _compete(
    before: str | None, layer: str, modules: Mapping[str, nn.Module], roles: Mapping[str, Role]
) -> bool:
    """Return whether the layer registered before this one could as well feed what comes behind."""
    if before is None or roles[before] != "weighted":
        return False
    parent = layer.rpartition(".")[0]
    siblings = before.rpartition(".")[0] == parent
    return siblings and not isinstance(modules[parent], nn.Sequential)


def _judge(record: Record, roles: Mapping[str, Role]) -> Role:
    """Return what a call is: that of a module, or of a function."""
    if not record.site.is_operation:
        return roles.get(record.site.module, "other")
    if record.kind in FUNCTIONS:
        return "nonlinearity"
    known = record.kind in PRODUCTS | LAYERS | NONLINEARITIES.keys()
    rescales = known or record.kind.startswith("conv") or "norm" in record.kind
    return "rescaling" if rescales else "other"


def _assign_roles(model: nn.Module) -> dict[str, Role]:
    return {name.name: _role_of(module) for module, name in name_modules(model).items()}


def _role_of(module: nn.Module) -> Role:
    if isinstance(module, WEIGHTED):
        return "weighted"
    if isinstance(module, nn.Identity):
        return "other"
    if from_module(module) is not None:
        return "nonlinearity"
    return "rescaling" if "Norm" in type(module).__name__ else "other"
