"""Results as JSON documents, for programs: every number, none of the prose.

Each is one object that names itself: ``{"format": "varprobe diagnosis", "version": 1, …}``. Its
numbers are written as in the file of a recording (see `varprobe.recording_file`): what JSON cannot
spell is the string "nan", "inf" or "-inf", and what does not apply is null. A recording's document
*is* that file; the fields of the others are those of the dataclasses below.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.finding import Diagnosis, Finding
from varprobe.recording import Recording, Unobserved
from varprobe.recording_file import FORMAT, VERSION, codec_of
from varprobe.registry import Registry
from varprobe.reporting.dispatch import find_for

if TYPE_CHECKING:
    from varprobe.comparison import Comparison
    from varprobe.identification import Identification, Origin, VarianceLaw
    from varprobe.theory import PhaseDiagram, Prediction
    from varprobe.theory.mean_field import MeanField

DOCUMENT_VERSION = 1
"""Raised when a field goes or changes its meaning; a new field is no new version."""

_WRITERS: Registry[str, Callable[[Any], dict[str, object]]] = Registry("kind of result")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteDocument:
    """All draws of one site in one run: `varprobe.analysis.SiteAnalysis`, its draws averaged."""

    run: str
    step: int
    depth: int
    module: str
    call: int
    output: str
    kind: str
    signal: str
    draws: int
    second_moment: float
    variance: float
    zero_fraction: float
    nonfinite: int
    predicted_second_moment: float | None
    predicted_variance: float | None
    log_std: float | None
    status: str | None
    ratio: float
    z: float
    gain: float | None
    predicted_gain: float | None
    gain_z: float | None
    chi: float

    @classmethod
    def of(cls, site: SiteAnalysis) -> SiteDocument:
        """Return the document of one site."""
        record, where, known, gain = site.first, site.site, site.expectation, site.gain
        return cls(
            run=record.run,
            step=record.step,
            depth=record.depth,
            module=where.module,
            call=where.call,
            output=where.output,
            kind=record.kind,
            signal=where.signal,
            draws=site.draws,
            second_moment=site.second_moment,
            variance=site.variance,
            zero_fraction=site.zero_fraction,
            nonfinite=site.nonfinite,
            predicted_second_moment=known.second_moment if known else None,
            predicted_variance=known.variance if known else None,
            log_std=known.log_std if known else None,
            status=known.status if known else None,
            ratio=site.ratio,
            z=site.z,
            gain=gain.measured if gain else None,
            predicted_gain=gain.predicted if gain else None,
            gain_z=gain.z if gain else None,
            chi=site.chi,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisDocument:
    """What was measured beside what was predicted, a row for each site."""

    meta: Mapping[str, object]
    unobserved: tuple[Unobserved, ...]
    sites: tuple[SiteDocument, ...]

    @classmethod
    def of(cls, analysis: Analysis) -> AnalysisDocument:
        """Return the document of an analysis."""
        return cls(
            meta=analysis.recording.meta,
            unobserved=analysis.recording.unobserved,
            sites=tuple(SiteDocument.of(site) for site in analysis.sites),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectationDocument:
    """What theory expects of one tensor: `varprobe.theory.Expectation`, its site spelled out."""

    depth: int
    module: str
    call: int
    output: str
    kind: str
    signal: str
    mean: float
    variance: float
    second_moment: float
    log_std: float
    status: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDocument:
    """A wide random network: the columns of `varprobe.schema.PHASE_DIAGRAM`."""

    sigma_w2: float
    sigma_b2: float
    phase: str
    q_star: float
    c_star: float
    chi: float
    chi_q: float
    chi_c: float
    xi_q: float
    xi_c: float
    xi_gradient: float

    @classmethod
    def of(cls, network: MeanField) -> NetworkDocument:
        """Return the document of one network."""
        return cls(**{field.name: getattr(network, field.name) for field in fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasesDocument:
    """A phase diagram; ``unbounded_from`` is by sigma_b2."""

    nonlinearity: str
    sigma_w2: tuple[float, ...]
    sigma_b2: tuple[float, ...]
    unbounded_from: tuple[float, ...]
    edge: tuple[NetworkDocument, ...]
    networks: tuple[NetworkDocument, ...]

    @classmethod
    def of(cls, diagram: PhaseDiagram) -> PhasesDocument:
        """Return the document of a diagram."""
        return cls(
            nonlinearity=repr(diagram.nonlinearity),
            sigma_w2=diagram.sigma_w2,
            sigma_b2=diagram.sigma_b2,
            unbounded_from=diagram.unbounded_from,
            edge=tuple(map(NetworkDocument.of, diagram.edge)),
            networks=tuple(map(NetworkDocument.of, diagram.points)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LawDocument:
    """A variance law: `varprobe.identification.VarianceLaw`."""

    name: str
    variance: float

    @classmethod
    def of(cls, law: VarianceLaw) -> LawDocument:
        """Return the document of a law."""
        return cls(name=law.name, variance=law.variance)


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginDocument:
    """What drew a parameter: `varprobe.identification.Origin`."""

    module: str
    parameter: str
    kind: str
    shape: tuple[int, ...]
    mean: float
    variance: float
    candidates: tuple[str, ...]
    laws: tuple[LawDocument, ...]
    p_value: float
    follower: str
    expected: LawDocument | None
    ratio: float
    z: float
    fits: bool | None
    note: str

    @classmethod
    def of(cls, origin: Origin) -> OriginDocument:
        """Return the document of a parameter."""
        return cls(
            module=origin.module,
            parameter=origin.parameter,
            kind=origin.kind,
            shape=origin.shape,
            mean=origin.mean,
            variance=origin.variance,
            candidates=origin.candidates,
            laws=tuple(map(LawDocument.of, origin.laws)),
            p_value=origin.p_value,
            follower=origin.follower,
            expected=LawDocument.of(origin.expected) if origin.expected else None,
            ratio=origin.ratio,
            z=origin.z,
            fits=origin.fits,
            note=origin.note,
        )


def to_json(result: object) -> str:
    """Return a result as one document of standard JSON.

    Parameters
    ----------
    result : Recording, Prediction, Analysis, Diagnosis, Comparison, PhaseDiagram or Identification
        What a public call returned.

    Returns
    -------
    str
        ASCII, indented by two, with a newline at its end.

    Raises
    ------
    UnknownNameError
        If ``result`` is none of these.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> diagnosis = vp.check(torch.nn.Linear(64, 64), torch.randn(32, 64))
    >>> print(to_json(diagnosis)[:64])
    {
      "format": "varprobe diagnosis",
      "version": 1,
      "healthy":
    """
    document = find_for(result, _WRITERS)(result)
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


@_WRITERS.register("Recording")
def _write_recording(recording: Recording) -> dict[str, object]:
    return {"format": FORMAT, "version": VERSION, **codec_of(Recording).encode(recording)}


@_WRITERS.register("Analysis")
def _write_analysis(analysis: Analysis) -> dict[str, object]:
    return {**_head("analysis"), **codec_of(AnalysisDocument).encode(AnalysisDocument.of(analysis))}


@_WRITERS.register("Diagnosis")
def _write_diagnosis(diagnosis: Diagnosis) -> dict[str, object]:
    return {**_head("diagnosis"), **_judge(diagnosis)}


@_WRITERS.register("Comparison")
def _write_comparison(comparison: Comparison) -> dict[str, object]:
    judged = {name: _judge(diagnosis) for name, diagnosis in comparison.diagnoses.items()}
    return {**_head("comparison"), "initializations": judged}


@_WRITERS.register("Prediction")
def _write_prediction(prediction: Prediction) -> dict[str, object]:
    rows = [
        ExpectationDocument(
            depth=e.depth,
            module=e.site.module,
            call=e.site.call,
            output=e.site.output,
            kind=e.kind,
            signal=e.site.signal,
            mean=e.mean,
            variance=e.variance,
            second_moment=e.second_moment,
            log_std=e.log_std,
            status=e.status,
            reason=e.reason,
        )
        for e in prediction
    ]
    return {
        **_head("prediction"),
        "meta": codec_of(Mapping[str, object]).encode(prediction.meta),
        "unsupported": dict(prediction.unsupported),
        "expectations": [codec_of(ExpectationDocument).encode(row) for row in rows],
    }


@_WRITERS.register("PhaseDiagram")
def _write_phases(diagram: PhaseDiagram) -> dict[str, object]:
    document = PhasesDocument.of(diagram)
    return {**_head("phase diagram"), **codec_of(PhasesDocument).encode(document)}


@_WRITERS.register("Identification")
def _write_identification(identification: Identification) -> dict[str, object]:
    origins = map(OriginDocument.of, identification)
    return {
        **_head("identification"),
        "meta": codec_of(Mapping[str, object]).encode(identification.meta),
        "unobserved": [codec_of(Unobserved).encode(each) for each in identification.unobserved],
        "parameters": [codec_of(OriginDocument).encode(origin) for origin in origins],
    }


def _judge(diagnosis: Diagnosis) -> dict[str, object]:
    recording = diagnosis.analysis.recording
    return {
        "healthy": diagnosis.healthy,
        "layers": len(recording.modules),
        "draws": recording.draws,
        "findings": [codec_of(Finding).encode(finding) for finding in diagnosis.findings],
        "ignored": dict(diagnosis.ignored),
        "analysis": codec_of(AnalysisDocument).encode(AnalysisDocument.of(diagnosis.analysis)),
    }


def _head(what: str) -> dict[str, object]:
    return {"format": f"varprobe {what}", "version": DOCUMENT_VERSION}
