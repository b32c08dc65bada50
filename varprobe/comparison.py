"""Several initializations of one model, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from varprobe.analysis import Analysis, analyze
from varprobe.diagnosis import Diagnosis, diagnose
from varprobe.errors import InvalidArgumentError
from varprobe.modules import Inputs, Loss
from varprobe.presentation import Presentable
from varprobe.profiling import Initialization, profile
from varprobe.theory import predict_silently

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Comparison(Presentable):
    """The analyses of several initializations, and a verdict over each.

    Parameters
    ----------
    analyses : mapping of str to Analysis
        By the initialization's name, in the order they were asked for.
    diagnoses : mapping of str to Diagnosis
        The same for the verdicts.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    >>> comparison = vp.compare(model, torch.randn(8, 64), inits=["kaiming_normal"], draws=2)
    >>> comparison.diagnoses["kaiming_normal"].healthy
    True
    """

    analyses: Mapping[str, Analysis]
    diagnoses: Mapping[str, Diagnosis]

    def to_frame(self) -> pd.DataFrame:
        """Return the frames of all analyses; the column ``run`` names the initialization."""
        import pandas as pd

        frames = [analysis.to_frame() for analysis in self.analyses.values()]
        return pd.concat(frames, ignore_index=True)

    def plot(self, **options: object) -> object:
        """Draw all initializations into one plot; see `varprobe.plot_compare`."""
        import varprobe

        draw: Any = varprobe.plot_compare
        return draw(self, **options)

    def __repr__(self) -> str:
        verdicts = ", ".join(
            f"{name} {'healthy' if diagnosis.healthy else 'unhealthy'}"
            for name, diagnosis in self.diagnoses.items()
        )
        return f"<Comparison: {verdicts}>"


def compare(
    model: nn.Module | Callable[[], nn.Module],
    inputs: Inputs | Callable[[int], Inputs],
    *,
    inits: Sequence[str] | Mapping[str, Initialization] = (
        "default",
        "xavier_normal",
        "kaiming_normal",
    ),
    kwargs: Mapping[str, Any] | None = None,
    draws: int = 8,
    seed: int = 0,
    loss: Loss | Literal[False] | None = None,
    progress: Callable[[str, int], object] | None = None,
) -> Comparison:
    """Profile, predict and judge a model under several initializations.

    All of them see the same inputs, the same random numbers of the forward pass and the same
    cotangent.

    Parameters
    ----------
    model, inputs, kwargs, draws, seed, loss
        As in `varprobe.profile`.
    inits : sequence of str, or mapping of str to str or callable
        Names of initializations, or labels with a name or a function of a module each.
    progress : callable, optional
        Called with the label and the number of finished draws after each.

    Returns
    -------
    Comparison
        With a theory for every initialization whose law has a name.

    Raises
    ------
    InvalidArgumentError
        If there is nothing to compare.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> layers = [layer for _ in range(30) for layer in (torch.nn.Linear(64, 64), torch.nn.ReLU())]
    >>> vp.compare(torch.nn.Sequential(*layers), torch.randn(16, 64), draws=2)
    <Comparison: default unhealthy, xavier_normal unhealthy, kaiming_normal healthy>
    """
    labelled = inits if isinstance(inits, Mapping) else {name: name for name in inits}
    if not labelled:
        raise InvalidArgumentError("inits is empty: name at least one initialization to look at.")
    analyses = {}
    for label, init in labelled.items():
        recording = profile(
            model,
            inputs,
            kwargs=kwargs,
            init=init,
            draws=draws,
            seed=seed,
            loss=loss,
            run=label,
            progress=None if progress is None else _report_to(progress, label),
        )
        data = inputs(0) if callable(inputs) else inputs
        prediction = predict_silently(model, data, kwargs=kwargs, init=init, loss=loss)
        analyses[label] = analyze(recording, prediction)
    diagnoses = {label: diagnose(analysis) for label, analysis in analyses.items()}
    return Comparison(analyses=analyses, diagnoses=diagnoses)


def _report_to(progress: Callable[[str, int], object], label: str) -> Callable[[int], object]:
    return lambda draw: progress(label, draw)
