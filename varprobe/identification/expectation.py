"""The variance that a layer's weights should have for the nonlinearity behind it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from varprobe.identification.variance_laws import VarianceLaw
from varprobe.initializers.laws import kaiming_variance
from varprobe.modules import WEIGHTED, compute_fans, name_modules
from varprobe.recording import Recording
from varprobe.theory.followers import Role, find_followers, find_wanted_gain, role_of_kind
from varprobe.theory.integrals import Nonlinearity
from varprobe.theory.nonlinearities import from_module


def list_nonlinearities(model: nn.Module) -> dict[str, Nonlinearity]:
    """Return the nonlinearities of a model by the names of their modules."""
    found = ((name.name, from_module(module)) for module, name in name_modules(model).items())
    return {name: known for name, known in found if known is not None and known.name != "identity"}


def follow_calls(model: nn.Module, recording: Recording) -> dict[str, str]:
    """Return the nonlinearity behind each weighted layer, in the order of a recorded forward."""
    roles = _assign_roles(model)
    calls = sorted(recording.select(signal="activation"), key=lambda record: record.depth)
    return find_followers((r.site.module, roles.get(r.site.module, "other")) for r in calls)


def follow_registration(model: nn.Module) -> dict[str, str]:
    """Return the nonlinearity behind each weighted layer, in the order that modules were made.

    In a Sequential that is the order of calls. Elsewhere it may not be: of two layers that one
    module registers before its activation (a gated or a two-layer perceptron), which one feeds it
    is unknown, and neither is in the result.
    """
    roles = {name: role for name, role in _assign_roles(model).items() if role != "other"}
    before = dict(zip(list(roles)[1:], roles, strict=False))
    modules = {name.name: module for module, name in name_modules(model).items()}
    return {
        layer: follower
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


def _assign_roles(model: nn.Module) -> dict[str, Role]:
    return {name.name: _role_of(module) for module, name in name_modules(model).items()}


def _role_of(module: nn.Module) -> Role:
    if isinstance(module, WEIGHTED):
        return "weighted"
    if from_module(module) is not None and not isinstance(module, nn.Identity):
        return "nonlinearity"
    return role_of_kind(type(module).__name__)
