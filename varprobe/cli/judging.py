"""What the commands that judge share: the project's settings, and a verdict under them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from varprobe.cli.output import stdout_for_results
from varprobe.cli.subjects import load_subject
from varprobe.settings import find_settings

if TYPE_CHECKING:
    from varprobe.cli.inputs import InputSpec
    from varprobe.diagnosis import Diagnosis
    from varprobe.reporting import Source


class Judgement(NamedTuple):
    """A verdict, and where the model that it is about is written down."""

    diagnosis: Diagnosis
    source: Source


def judge(
    target: str,
    inputs: Sequence[InputSpec],
    *,
    init: str | None,
    draws: int | None,
    seed: int | None,
    preset: str | None = None,
    select: tuple[str, ...] | None = None,
    ignore: tuple[str, ...] | None = None,
    **options: Any,
) -> Judgement:
    """Judge a target; what is None is what the project's settings say.

    Parameters
    ----------
    target, inputs
        As in `varprobe.cli.subjects.load_subject`.
    init, draws, seed, preset, select, ignore
        As in `varprobe.check`. The project's number of draws counts where weights can be drawn.
    **options
        Further options of `varprobe.check`.
    """
    # Before the target is imported, which may take a while.
    settings = find_settings()
    seed = (settings.seed or 0) if seed is None else seed
    with stdout_for_results():
        from torch import nn

        import varprobe as vp

        subject = load_subject(target, inputs, seed=seed)
        # After it is: the target may register checks of its own.
        policy = vp.Policy.of(settings).override(preset=preset, select=select, ignore=ignore)
        kept = init is None and isinstance(subject.model, nn.Module)
        draws = draws or (1 if kept else settings.draws or 1)
        diagnosis = vp.check(
            subject.model,
            subject.inputs,
            init=init,
            draws=draws,
            seed=seed,
            loss=subject.loss,
            policy=policy,
            **options,
        )
    return Judgement(diagnosis, subject.source)
