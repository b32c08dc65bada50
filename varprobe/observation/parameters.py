"""Measure the weights of the watched modules, and tap their gradients: each parameter once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from varprobe.modules import (
    compute_fans,
    find_fully_sharded,
    is_lazy,
    name_kind,
    own_parameters,
)
from varprobe.observation.forwards import AnyForward
from varprobe.observation.gradients import GradientTaps
from varprobe.observation.ledger import FULLY_SHARDED, Ledger
from varprobe.statistics import count_distinct_rows


class Parameters:
    """The parameters of a model, those of lazy modules as soon as they have a shape."""

    def __init__(
        self, model: nn.Module, signals: Sequence[str], ledger: Ledger, taps: GradientTaps
    ) -> None:
        self._model = model
        self._signals = signals
        self._ledger = ledger
        self._taps = taps
        self._shapeless: set[nn.Module] = set()

    def measure(self, names: Mapping[nn.Module, str]) -> None:
        """Measure the parameters that these modules hold."""
        self._shapeless = {module for module in names if _is_shapeless(module)}
        self._measure(names)

    def measure_late(self, module: nn.Module, name: str) -> None:
        """Measure those of a module that has run, if they had no shape before."""
        if self._shapeless and module in self._shapeless:
            self._shapeless.remove(module)
            self._measure({module: name})

    def _measure(self, names: Mapping[nn.Module, str]) -> None:
        pooled, sharded = AnyForward(), find_fully_sharded(self._model)
        for owner, name, parameter in own_parameters(names):
            where = names[owner], 0, name
            kind = name_kind(owner)
            if "weight" in self._signals:
                place = self._ledger.find_place(*where, "weight", kind)
                place.fans = compute_fans(owner) if name == "weight" else None
                reading = self._ledger.measure(place, parameter)
                if reading is not None:
                    self._ledger.add(place, reading, parameter)
                if place.fans and self._ledger.full and self._ledger.reads_whole(parameter):
                    place.distinct_rows = count_distinct_rows(owner, parameter)
            if "weight_gradient" in self._signals and parameter.requires_grad:
                place = self._ledger.find_place(*where, "weight_gradient", kind)
                place.awaited = True
                if id(parameter) in sharded:
                    place.absence = FULLY_SHARDED
                self._taps.tap(parameter, place, pooled)


def _is_shapeless(module: nn.Module) -> bool:
    return any(is_lazy(held) for held in module._parameters.values() if held is not None)
