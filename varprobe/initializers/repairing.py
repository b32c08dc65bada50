"""Draw anew what a diagnosis found at fault, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn

from varprobe.errors import InvalidArgumentError, UnknownNameError, UnsupportedModelError
from varprobe.initializers.application import law_of
from varprobe.initializers.assignment import (
    Assignment,
    assign,
    dotted,
    own_parameters,
    require_lasting,
    require_materialized,
)
from varprobe.initializers.drawn import is_matrix, plan_draw, require_real
from varprobe.initializers.laws import WeightLaw
from varprobe.initializers.seeding import seeded
from varprobe.modules import name_modules


class Prescription(Protocol):
    """A parameter and its initialization: `varprobe.diagnosis.Fix`."""

    @property
    def parameter(self) -> str:
        """Its name, as in ``named_parameters()``."""

    @property
    def init(self) -> str:
        """The initialization, as `varprobe.initialize` reads it."""


class Curable(Protocol):
    """What a repair reads of a `varprobe.Finding`."""

    @property
    def code(self) -> str:
        """Its code."""

    @property
    def level(self) -> str:
        """Its level."""

    @property
    def where(self) -> str:
        """The layer's name."""

    @property
    def remedy(self) -> str:
        """What to do, in words."""

    @property
    def fixes(self) -> Sequence[Prescription]:
        """What to draw anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A parameter that was drawn anew.

    Parameters
    ----------
    parameter : str
        Its name, as in ``named_parameters()``.
    code : str
        Code of the finding.
    law : WeightLaw
        What it was drawn from.
    before, after : float
        Second moments of its elements.
    """

    parameter: str
    code: str
    law: WeightLaw
    before: float
    after: float

    def __str__(self) -> str:
        return (
            f"{self.parameter} ({self.code}): drawn from a {self.law.distribution} law, second "
            f"moment {self.before:.3g} -> {self.after:.3g}"
        )


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair did.

    Parameters
    ----------
    changes : tuple of Change
        Each parameter that was drawn, in the order of the findings.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> layer = torch.nn.Linear(8, 4)
    >>> _ = torch.nn.init.constant_(layer.weight, 0.5)
    >>> done = vp.repair(layer, vp.check(layer, torch.ones(2, 8)).findings)
    >>> [change.parameter for change in done.changes]
    ['weight']
    """

    changes: tuple[Change, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.changes)) or "nothing to repair"


def repair(model: nn.Module, findings: Iterable[Curable], *, seed: int = 0) -> Repair:
    """Draw anew, in place, the parameters that findings name, from what their fixes say.

    Only those parameters change, and all of them or none. The global generators stay as they are.

    Parameters
    ----------
    model : nn.Module
        The model that was diagnosed.
    findings : iterable of Finding
        ``diagnosis.findings``, or some of them. Findings of level info explain a design: there is
        nothing to repair. Of two for one parameter the first counts.
    seed : int
        The same seed gives a parameter the same numbers, whatever else is repaired.

    Returns
    -------
    Repair
        What was drawn, from what, with the second moments before and after.

    Raises
    ------
    UnsupportedModelError
        If a finding is of another kind than drawing weights cures, or a parameter cannot be drawn.
        The message says what to do; nothing was changed.
    UnknownNameError
        If the model has no such parameter.
    InvalidArgumentError
        If these are no findings.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> layers = [layer for _ in range(12) for layer in (torch.nn.Linear(64, 64), torch.nn.ReLU())]
    >>> model = vp.initialize(torch.nn.Sequential(*layers), "kaiming_normal", seed=0)
    >>> inputs = torch.randn(32, 64)
    >>> generator = torch.Generator().manual_seed(0)
    >>> _ = torch.nn.init.normal_(model[8].weight, std=1e-4, generator=generator)
    >>> diagnosis = vp.check(model, inputs)
    >>> print(vp.repair(model, diagnosis.findings))
    8.weight (VP301): drawn from a normal law, second moment 9.87e-09 -> 0.0312
    >>> vp.check(model, inputs).healthy
    True
    """
    laws = list_laws(model, findings)
    owners = {name: (module, own) for module, own, name in _list_parameters(model)}
    before = {name: _measure(*owners[name]) for name in laws}
    with torch.no_grad():
        assign([_draw(model, *owners[name], name, law, seed) for name, (_, law) in laws.items()])
    return Repair(
        tuple(
            Change(
                parameter=name,
                code=code,
                law=law,
                before=before[name],
                after=_measure(*owners[name]),
            )
            for name, (code, law) in laws.items()
        )
    )


def list_laws(model: nn.Module, findings: Iterable[Curable]) -> dict[str, tuple[str, WeightLaw]]:
    """Return, by parameter, the code of its finding and the law that its fix means."""
    if not isinstance(findings, Iterable):
        raise InvalidArgumentError(
            f"Expected findings, got {type(findings).__name__}. Pass diagnosis.findings."
        )
    require_materialized(model)
    owners = {name: (module, own) for module, own, name in _list_parameters(model)}
    laws: dict[str, tuple[str, WeightLaw]] = {}
    for finding in findings:
        if finding.level == "info":
            continue
        if not finding.fixes:
            raise UnsupportedModelError(
                f"{finding.code} at {finding.where} is not cured by drawing weights anew; nothing "
                f"was changed. What to do: {finding.remedy} To repair the rest, pass "
                "[f for f in diagnosis.findings if f.fixes]."
            )
        for fix in finding.fixes:
            if fix.parameter not in owners:
                raise UnknownNameError.among("parameter", fix.parameter, owners)
            law = _find_law(*owners[fix.parameter], fix)
            laws.setdefault(fix.parameter, (finding.code, law))
    return laws


def _list_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Yield module, own name and full name of each parameter."""
    for module, known in name_modules(model).items():
        for own in own_parameters(module):
            yield module, own, dotted(known.name, own)


def _find_law(module: nn.Module, own: str, fix: Prescription) -> WeightLaw:
    law = law_of(fix.init, module, own, norms=True, embeddings=True)
    if law is None and is_matrix(tensor := getattr(module, own)):
        # A matrix outside of any layer: of attention's projections, say. Its rows are its outputs.
        rows = tensor.shape[0]
        layer = nn.Linear(tensor.numel() // rows, rows, bias=False, device="meta")
        law = law_of(fix.init, layer)
    if law is None:
        raise UnsupportedModelError(
            f"{fix.parameter} of a {type(module).__name__} has no law under {fix.init!r}; nothing "
            "was changed. Set it yourself."
        )
    if law.distribution == "measured":
        # The module has its own way to draw, of which one draw shows the scale.
        return WeightLaw.normal(law.variance, law.mean)
    return law


def _draw(
    model: nn.Module, module: nn.Module, own: str, name: str, law: WeightLaw, seed: int
) -> Assignment:
    require_lasting(module, name)
    require_real(module._parameters.get(own), name)
    planned = plan_draw(module, own, name, law)
    # Each parameter has a stream of its own: layers of one shape must not be copies of each other.
    words = np.random.SeedSequence((seed, *name.encode())).generate_state(1, "uint64")

    def fill(tensor: torch.Tensor) -> None:
        with seeded(model, int(words[0] >> 1)):
            planned.fill(tensor)

    return Assignment(module, own, name, fill)


def _measure(module: nn.Module, own: str) -> float:
    tensor: torch.Tensor = getattr(module, own)
    return tensor.detach().double().square().mean().item()
