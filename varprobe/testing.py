"""The four steps in one call, for a test: profile, predict, analyze, diagnose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import Any, Literal

from torch import nn

from varprobe.analysis import analyze
from varprobe.baseline import Baseline
from varprobe.diagnosis import Diagnosis, Finding, Policy, diagnose
from varprobe.diagnosis.effects import add_effects
from varprobe.errors import NothingRecordedError
from varprobe.initializers.repairing import list_laws
from varprobe.modules import Inputs, Loss
from varprobe.observation.filters import Filters
from varprobe.profiling import Initialization, build_model, profile
from varprobe.recording import Recording, Unobserved
from varprobe.theory import Prediction, predict_silently


def check(
    model: nn.Module | Callable[[], nn.Module],
    inputs: Inputs | Callable[[int], Inputs],
    *,
    kwargs: Mapping[str, Any] | None = None,
    init: Initialization | None = None,
    draws: int = 1,
    seed: int = 0,
    loss: Loss | Literal[False] | None = None,
    include: Filters | None = None,
    exclude: Filters = (),
    baseline: Baseline | str | PathLike[str] | None = None,
    policy: Policy | None = None,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
) -> Diagnosis:
    """Say whether signal propagates through a model, and which layer is to blame if not.

    Parameters
    ----------
    model, inputs, kwargs, init, draws, seed, loss, include, exclude
        As in `varprobe.profile`.
    baseline : Baseline or path, optional
        What the same model measured before, or its file: see `varprobe.Baseline`.
    policy, select, ignore
        As in `varprobe.diagnose`.

    Returns
    -------
    Diagnosis
        ``.healthy``, ``.findings``, ``.raise_for_findings()``. A finding with fixes says what
        theory predicts of them (the first four do, if there are more). If nothing could be recorded
        it holds VP001 and is not healthy.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    >>> print(vp.check(model, torch.randn(32, 64)))
    Sequential is healthy: 3 layers, 1 draw checked.
    """
    policy = (policy or Policy()).override(select=select, ignore=ignore)
    if isinstance(baseline, str | PathLike):
        baseline = Baseline.load(baseline)
    # One draw of kept weights is predicted from these very weights, several from their law.
    one = init is None and draws == 1
    subject = build_model(model, seed=seed) if one else model
    try:
        recording = profile(
            subject,
            inputs,
            kwargs=kwargs,
            init=init,
            draws=draws,
            seed=seed,
            loss=loss,
            include=include,
            exclude=exclude,
        )
    except NothingRecordedError as error:
        nothing = Unobserved(module="", reason=str(error))
        recording = Recording(records=(), meta={}, unobserved=(nothing,))
        return diagnose(analyze(recording), policy=policy)
    prediction = predict_silently(subject, inputs, kwargs=kwargs, init=init, loss=loss)
    diagnosis = diagnose(analyze(recording, prediction, baseline=baseline), policy=policy)

    def repredict(finding: Finding) -> Prediction:
        built = build_model(model, seed=seed)
        laws = {name: law for name, (_, law) in list_laws(built, [finding]).items()}
        return predict_silently(subject, inputs, kwargs=kwargs, init=init, laws=laws, loss=loss)

    return add_effects(diagnosis, repredict)


def assert_healthy(
    model: nn.Module | Callable[[], nn.Module],
    inputs: Inputs | Callable[[int], Inputs],
    **options: Any,
) -> None:
    """Fail, as an assertion does, if signal does not propagate through a model.

    Parameters
    ----------
    model, inputs, **options
        As in `varprobe.check`.

    Raises
    ------
    PropagationError
        An AssertionError that names the layers, the measured and the allowed numbers, and the cure.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> vp.assert_healthy(torch.nn.Linear(64, 64), torch.randn(32, 64))
    """
    check(model, inputs, **options).raise_for_findings()
