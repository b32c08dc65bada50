"""The file of a baseline: what a model's second moments were, small enough to be read in a diff.

::

    {
      "format": "varprobe baseline",
      "version": 1,
      "model": "Sequential",
      "parameters": 8320,
      "init": null,
      "loss": "random cotangent",
      "draws": 3,
      "input": 1.002,
      "activation": {
        "0": 0.3301,
        "1": 0.1598
      },
      "gradient": {…},
      "weight": {"0.weight": 0.005219, …}
    }

Second moments have four digits: a machine that sums in another order writes the same file, and one
digit of the last place is far below every error bar.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from varprobe.errors import BaselineError, UnknownNameError
from varprobe.recording import Recording, Site

FORMAT = "varprobe baseline"
VERSION = 1

SIGNALS = ("activation", "gradient", "weight")
"""Signals that are kept. Weight gradients follow from the first two."""

DIGITS = 4

MAX_INPUT = 1.5
"""Factor between the second moments of the inputs then and now up to which layers are compared.
Inputs drawn anew differ by sqrt(2/N) for N elements, a forgotten normalization by more than this;
what lies between widens the error bars by as much."""

WRITE = "varprobe baseline TARGET --out FILE, or pytest --varprobe-update-baselines"
"""How a baseline comes about, for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What a model's second moments were when somebody looked at them and agreed.

    Parameters
    ----------
    model : str
        Class name of the model.
    parameters : int
        Number of its parameters.
    init : str or None
        The initialization that the weights were drawn from; None if they were kept.
    loss : str
        As in ``recording.meta``.
    draws : int
        Samples of the weights.
    input : float or None
        Second moment of the input, where a layer with a fan-in is the first to see it, in a².
    second_moments : mapping of str to mapping of str to float
        By signal and by the name of the site (see `name_site`), in the order of depth.
    path : str
        The file that it was read from, for messages.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model, inputs = torch.nn.Linear(64, 64), torch.randn(32, 64)
    >>> baseline = vp.check(model, inputs).analysis.to_baseline()
    >>> vp.check(model, inputs, baseline=baseline).healthy
    True
    >>> with torch.no_grad():
    ...     _ = model.weight.mul_(1.5)
    >>> [finding.code for finding in vp.check(model, inputs, baseline=baseline).findings]
    ['VP305']
    """

    model: str
    parameters: int
    init: str | None
    loss: str
    draws: int
    input: float | None
    second_moments: Mapping[str, Mapping[str, float]]
    path: str = field(default="", compare=False)

    @classmethod
    def of(
        cls, recording: Recording, moments: Mapping[Site, float], *, received: float | None
    ) -> Baseline:
        """Return the baseline of one run.

        Parameters
        ----------
        recording : Recording
            The run.
        moments : mapping of Site to float
            Second moments, averaged over the draws.
        received : float or None
            Second moment of the input.

        Raises
        ------
        BaselineError
            If several runs were recorded.
        """
        if len(recording.runs) > 1:
            raise BaselineError(
                f"The recording has the runs {', '.join(recording.runs)}, and a baseline is of "
                "one: record the model under the initialization that the project uses."
            )
        kept: dict[str, dict[str, float]] = {signal: {} for signal in SIGNALS}
        for site, second_moment in moments.items():
            if site.signal in kept:
                kept[site.signal][name_site(site)] = second_moment
        meta: Mapping[str, Any] = recording.meta
        return cls(
            model=meta.get("model", ""),
            parameters=meta.get("parameters", 0),
            init=meta.get("init"),
            loss=meta.get("loss", ""),
            draws=recording.draws,
            input=received,
            second_moments=kept,
        )

    def find(self, site: Site) -> float | None:
        """Return the second moment of a site; None if it is not kept."""
        return self.second_moments.get(site.signal, {}).get(name_site(site))

    def require_match(self, now: Baseline) -> None:
        """Raise unless the other is of the same model, under the same experiment.

        Raises
        ------
        BaselineError
            If the models differ in more than their numbers, or the initialization, the loss or the
            input does: such numbers cannot be compared.
        """
        for name in ("model", "parameters", "init", "loss"):
            then, found = getattr(self, name), getattr(now, name)
            if then != found:
                what = "another model" if name in ("model", "parameters") else "another experiment"
                raise self._blame(what, f"{name} was {then!r} and is {found!r}")
        for signal in SIGNALS:
            then, found = self.second_moments[signal].keys(), now.second_moments[signal].keys()
            gone = [
                f"{name!r} is gone" for name in self.second_moments[signal] if name not in found
            ]
            new = [f"{name!r} is new" for name in now.second_moments[signal] if name not in then]
            if gone or new:
                more = f", and {len(gone + new) - 1} more" if len(gone + new) > 1 else ""
                raise self._blame("another model", f"of its {signal}s {(gone + new)[0]}{more}")
        if self.input and now.input and not 1 / MAX_INPUT < now.input / self.input < MAX_INPUT:
            raise self._blame(
                "another experiment",
                f"the input's second moment was {self.input:.4g} and is {now.input:.4g}",
            )

    def _blame(self, what: str, difference: str) -> BaselineError:
        name = f"baseline {self.path}" if self.path else "baseline"
        return BaselineError(
            f"The {name} is of {what}: {difference}. Name the right file; or, if the change is "
            f"meant, write it again with {WRITE}."
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write the baseline to a file; its folder is made if it is missing.

        Raises
        ------
        BaselineError
            In CI: a baseline that moves along with the model would find nothing.
        """
        refuse_in_ci()
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self._to_text(), encoding="ascii", newline="\n")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Baseline:
        """Return the baseline that `save` wrote.

        Raises
        ------
        BaselineError
            If there is no such file, or it is no baseline.
        """
        name = os.fspath(path)
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BaselineError(
                f"There is no baseline {name}. Write it with {WRITE}; look at it, and commit it."
            ) from None
        except (OSError, ValueError) as error:
            raise BaselineError(f"{name} is no baseline: {error}. {_REPLACE}") from None
        return _interpret(document, name)

    def _to_text(self) -> str:
        facts = {name: getattr(self, name) for name in _FACTS}
        moments = {
            signal: {name: _round(q) for name, q in self.second_moments[signal].items()}
            for signal in SIGNALS
        }
        facts["input"] = None if self.input is None else _round(self.input)
        document = {"format": FORMAT, "version": VERSION, **facts, **moments}
        return json.dumps(document, indent=2, allow_nan=False) + "\n"


def name_site(site: Site) -> str:
    """Return what a site is called in a baseline: "encoder.0", "encoder.0@1[hidden]", "0.weight".

    Within one signal no two sites share a name, which `str(site)` does not promise: "a.0" may be a
    module, and the first output of another.
    """
    if site.signal == "weight":
        return f"{site.module}.{site.output}" if site.module else site.output
    plain = str(Site(module=site.module, call=site.call, signal=site.signal))
    return f"{plain}[{site.output}]" if site.output else plain


def refuse_in_ci() -> None:
    """Raise if this is CI, where nobody looks at what is written.

    Raises
    ------
    BaselineError
        If the environment variable CI is set to anything but 0 or false.
    """
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        raise BaselineError(
            f"CI={os.environ['CI']} is set, and a baseline is not written in CI: one that moves "
            "along with the model finds nothing. Write it at your desk, look at the diff, and "
            "commit it."
        )


_REPLACE = f"Write it again with {WRITE}."


def _round(value: float) -> float | str:
    # JSON has no word for them; a model with such a number is unhealthy anyhow.
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else repr(value)


def _interpret(document: object, name: str) -> Baseline:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BaselineError(f'{name} is no baseline: it has no "format": "{FORMAT}". {_REPLACE}')
    if document.get("version") != VERSION:
        raise BaselineError(
            f"{name} has version {document.get('version')!r}, expected {VERSION}. {_REPLACE}"
        )
    fields = {key: value for key, value in document.items() if key not in ("format", "version")}
    expected = {**_FACTS, "input": _is_moment_or_none, **dict.fromkeys(SIGNALS, _is_moments)}
    for key in fields.keys() - expected.keys():
        what = str(UnknownNameError.among("field of a baseline", key, expected))
        raise BaselineError(f"{name} is damaged: {what} {_REPLACE}")
    for key, fits in expected.items():
        if key not in fields or not fits(fields[key]):
            found = repr(fields[key])[:60] if key in fields else "missing"
            raise BaselineError(f"{name} is damaged: {key} is {found}. {_REPLACE}")
    moments = {signal: {k: float(q) for k, q in fields.pop(signal).items()} for signal in SIGNALS}
    received = fields.pop("input")
    return Baseline(
        **fields,
        input=None if received is None else float(received),
        second_moments=moments,
        path=name,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_moment(value: Any) -> bool:
    finite = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0.0
    return finite or value in ("inf", "nan")


def _is_moment_or_none(value: Any) -> bool:
    return value is None or _is_moment(value)


def _is_moments(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_moment, value.values()))


_FACTS: Mapping[str, Callable[[Any], bool]] = {
    "model": lambda value: isinstance(value, str),
    "parameters": _is_number,
    "init": lambda value: value is None or isinstance(value, str),
    "loss": lambda value: isinstance(value, str),
    "draws": lambda value: _is_number(value) and value > 0,
}
"""By field: what tells whether it is one."""
