"""Recordings and predictions with known numbers, without any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from varprobe.moments import Moments
from varprobe.recording import Record, Recording, Site
from varprobe.theory.prediction import Expectation, Prediction

NUMEL = 4


def make_record(
    module: str,
    second_moment: float,
    *,
    signal: str = "activation",
    mean: float = 0.0,
    nan: int = 0,
    call: int = 0,
    output: str = "",
    **fields: object,
) -> Record:
    m2 = (NUMEL - nan) * (second_moment - mean**2)
    return Record(
        site=Site(module=module, call=call, output=output, signal=signal),
        moments=Moments(numel=NUMEL, mean=mean, m2=m2, abs_max=1.0, nan=nan),
        **{"kind": "Linear", "depth": 0, **fields},
    )


def make_weight(module: str, **fields: object) -> Record:
    return make_record(module, 1.0, signal="weight", output="weight", fan_in=4, **fields)


def make_recording(
    draws: Mapping[str, Sequence[float]], *, gradient: bool = True, run: str = ""
) -> Recording:
    """Return a recording of weighted layers: second moments by module, one for each draw.

    The second moment of the gradient is a tenth of the activation's.
    """
    records = []
    for depth, (module, values) in enumerate(draws.items()):
        for draw, value in enumerate(values):
            where = {"depth": depth, "draw": draw, "run": run}
            records += [make_weight(module, **where), make_record(module, value, **where)]
            if gradient:
                records.append(make_record(module, value / 10, signal="gradient", **where))
    return Recording(records=tuple(records), meta={"model": "Net"})


def make_expectation(
    module: str,
    second_moment: float,
    log_std: float,
    *,
    signal: str = "activation",
    variance: float | None = None,
    depth: int = 0,
    kind: str = "Linear",
    status: str = "exact",
) -> Expectation:
    return Expectation(
        site=Site(module=module, signal=signal),
        kind=kind,
        depth=depth,
        mean=0.0,
        variance=second_moment if variance is None else variance,
        second_moment=second_moment,
        log_std=log_std,
        status=status,
    )


def make_prediction(*expectations: Expectation) -> Prediction:
    return Prediction(expectations=expectations, meta={"model": "Net", "init": "mine"})
