"""Probe one model, and compare with runs in which nothing but the model ran."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import varprobe as vp
from tests.corpus.subject import Builder, Subject
from tests.corpus.truth import observe_all, read_weight_gradients
from tests.probe.untouched import describe_values, to_bytes
from varprobe.modules import walk_tensors
from varprobe.recording import Recording, Site
from varprobe.schema import SIGNALS
from varprobe.theory import predict_silently

OWN_OPERATIONS = "operations of its own"
"""How `Recording.unobserved` lists a module that was recorded and also computes between its parts:
no excuse for a missing record."""


@dataclass
class Result:
    """What became of one model.

    ``problems`` is empty if the probe saw everything and touched nothing, ``failures`` if theory
    and verdict ran and touched nothing. How far the theory reaches, and what the verdict is, stand
    beside it.
    """

    problems: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    modules: int = 0
    records: int = 0
    unobserved: int = 0
    reached: float = math.nan
    unsupported: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    verdict: str = "-"
    seconds: float = 0.0


def examine(build: Builder) -> Result:
    """Return what the probe, the theory and the verdict make of a model."""
    result = Result()
    begin = time.perf_counter()
    with _repeatable():
        for step, complaints in (
            (_compare_runs, result.problems),
            (_predict, result.failures),
            (_check, result.failures),
        ):
            try:
                step(build, result)
            except Exception as error:
                complaints.append(f"{step.__name__[1:]}: {type(error).__name__}: {error}")
    result.seconds = time.perf_counter() - begin
    return result


@contextmanager
def _repeatable() -> Iterator[None]:
    """Fix what may order sums differently: threads, and operations with a faster variant."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def _build(build: Builder) -> Subject:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return build()


def _run(subject: Subject, watch: AbstractContextManager[Any] | None = None) -> dict[str, object]:
    """Run forward and backward; return every number that a probe could have changed."""
    with watch or nullcontext():
        outputs = list(walk_tensors(subject.model(*subject.inputs, **subject.kwargs)))
        roots = [t for _, t in outputs if t.requires_grad]
        loss = sum((root.abs().square().mean() for root in roots), torch.zeros(()))
        if not loss.isfinite():
            raise ValueError("the loss is not finite: nothing can be compared")
        if roots:
            loss.backward()
    return {
        "loss": to_bytes(loss),
        **{f"output {path}": to_bytes(tensor) for path, tensor in outputs},
        **_describe(subject),
    }


def _describe(subject: Subject) -> dict[str, object]:
    return {
        **describe_values(subject.model),
        "generator of torch": to_bytes(torch.get_rng_state()),
        "generator of numpy": repr(np.random.get_state()),
        "generator of python": random.getstate(),
    }


def _compare_runs(build: Builder, result: Result) -> None:
    bare = _run(_build(build))
    again = _list_differences(bare, _run(_build(build)))
    if again:
        raise ValueError(f"two bare runs differ in {again}: nothing can be compared")
    subject = _build(build)
    with observe_all(subject.model) as truth:
        _run(subject)
    result.modules = len({site.module for site in truth})
    for stats, signals in (("moments", SIGNALS[:-1]), ("full", SIGNALS)):
        subject = _build(build)
        probe = vp.Probe(subject.model, stats=stats, signals=signals)
        changed = _list_differences(bare, _run(subject, probe))
        if changed:
            result.problems.append(f"stats={stats} changes {changed}")
        recording = probe.recording
        if "weight_gradient" in signals:
            truth |= read_weight_gradients(subject.model)
        expected = {site: number for site, number in truth.items() if site.signal in signals}
        result.problems += [f"stats={stats}: {miss}" for miss in _list_misses(recording, expected)]
        result.records, result.unobserved = len(recording), len(recording.unobserved)


def _list_differences(one: Mapping[str, object], other: Mapping[str, object]) -> str:
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return _abridge(names)


def _list_misses(recording: Recording, truth: Mapping[Site, float]) -> Iterator[str]:
    """Yield what was neither recorded nor listed, and what was recorded wrongly."""
    measured = {record.site: record.moments.second_moment for record in recording}
    listed = {
        item.module for item in recording.unobserved if not item.reason.startswith(OWN_OPERATIONS)
    }
    missing = [
        f"{site} ({site.signal})"
        for site in truth
        if site not in measured and not {site.module, str(site)} & listed
    ]
    if missing:
        yield f"neither recorded nor listed: {_abridge(missing)}"
    wrong = [
        f"{site} ({site.signal}) {measured[site]:.9g} for {number:.9g}"
        for site, number in truth.items()
        if site in measured and not _agree(measured[site], number)
    ]
    if wrong:
        yield f"recorded wrongly: {_abridge(wrong)}"


def _agree(measured: float, expected: float) -> bool:
    # Float32 kernels of the statistics are held to 1e-6; below the squares of the smallest normal
    # numbers there is nothing to compare.
    both_nan = math.isnan(measured) and math.isnan(expected)
    return both_nan or math.isclose(measured, expected, rel_tol=1e-6, abs_tol=1e-75)


def _abridge(items: list[str]) -> str:
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return ", ".join(items[:3]) + more


def _build_complete(build: Builder) -> Subject:
    # Some libraries finish a model when it first runs, with hooks of their own.
    subject = _build(build)
    with torch.no_grad():
        subject.model(*subject.inputs, **subject.kwargs)
    return subject


def _predict(build: Builder, result: Result) -> None:
    subject = _build_complete(build)
    before = _describe(subject)
    prediction = predict_silently(subject.model, subject.inputs, kwargs=subject.kwargs)
    changed = _list_differences(before, _describe(subject))
    if changed:
        result.failures.append(f"predict changes {changed}")
    rows = Counter(e.status for e in prediction if e.site.signal != "weight")
    result.reached = (rows["exact"] + rows["approximate"]) / max(rows.total(), 1)
    result.unsupported = prediction.unsupported


def _check(build: Builder, result: Result) -> None:
    subject = _build_complete(build)
    before = _describe(subject)
    diagnosis = vp.check(subject.model, subject.inputs, kwargs=subject.kwargs)
    changed = _list_differences(before, _describe(subject))
    if changed:
        result.failures.append(f"check changes {changed}")
    codes = sorted({finding.code for finding in diagnosis.all_findings})
    result.verdict = " ".join(["healthy" if diagnosis.healthy else "UNHEALTHY", *codes])
    result.findings = tuple(
        f"{finding.code} {finding.level} at {finding.module}: {finding.message}"
        for finding in diagnosis.all_findings
    )
