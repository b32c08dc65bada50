"""What was measured: Site (which tensor), Record (its Moments), Recording (all of them).

Nothing here knows torch. A saved recording can be analysed, diagnosed and drawn on a machine that
has neither the model nor its weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from varprobe.moments import (
    LinearInput,
    Moments,
    Sampling,
    merge_exponents,
    merge_linear_inputs,
)
from varprobe.presentation import Presentable
from varprobe.schema import RECORDING, SIGNALS, build_frame

if TYPE_CHECKING:
    from os import PathLike

    import pandas as pd

__all__ = ["UNKNOWN_CALL", "Moments", "Record", "Recording", "Site", "Unobserved"]

UNKNOWN_CALL = -1
"""Call index of an observation whose call cannot be told (reentrant checkpointing)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Which tensor: where in the model, and which of its signals.

    Parameters
    ----------
    module : str
        Name in ``named_modules()``, "" for the root, wrapper segments removed.
    call : int
        0, 1, … : which call of the module within one root forward; `UNKNOWN_CALL` if not known.
    output : str
        Path in the output structure ("" for a bare tensor, else "0", "logits", "past.1.0"); for
        weight and weight_gradient the parameter's name; for an operation its name, with a number
        for the second of its kind in the call: "relu()", "add()", "add().1".
    signal : str
        One of `varprobe.schema.SIGNALS`.

    Examples
    --------
    >>> import varprobe as vp
    >>> print(vp.Site(module="encoder.attn", call=1, output="weights", signal="gradient"))
    encoder.attn@1.weights
    """

    module: str
    call: int = 0
    output: str = ""
    signal: str = "activation"

    @property
    def is_operation(self) -> bool:
        """Whether it is the result of an operation in the module, not the module's output."""
        return "()" in self.output

    @property
    def parameter(self) -> str:
        """The name of a weight, or of a weight gradient's, as in ``named_parameters()``."""
        return f"{self.module}.{self.output}" if self.module else self.output

    def __str__(self) -> str:
        call = "" if not self.call else f"@{'?' if self.call == UNKNOWN_CALL else self.call}"
        output = f".{self.output}" if self.output else ""
        return f"{self.module or '(root)'}{call}{output}"


RecordKey = tuple[str, int, int, Site, int]
"""What must agree for two records to be pooled: run, draw, step, site, backward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One observation of one site.

    Parameters
    ----------
    run, draw, step
        Label of the profile, index of the weight sample, optimizer step.
    depth : int
        Order of first execution; a parameter has the depth of its module.
    site : Site
        Which tensor.
    kind : str
        Class name of the module, or name of the operation.
    moments : Moments
        What was measured.
    shape : tuple of int
        Shape of the last tensor that was pooled here.
    fan_in, fan_out : int or None
        Fans of a weight of Linear, ConvNd and ConvTransposeNd; None elsewhere.
    distinct_rows : int or None
        Units of such a layer whose incoming weights differ; None where they were not counted.
    linear_input : LinearInput or None
        The input of a weighted layer, beside the activation it produced.
    exponents : mapping of int to int, or None
        Histogram over powers of two: elements with 2**(e-1) <= abs(x) < 2**e, by e. Zeros and
        non-finite elements are not in it.
    backward : int
        Which of the backward passes that reached one forward (0 unless there were several).
    sampling : Sampling or None
        How much was read of what was too large to be read whole (see ``max_elements`` of
        `varprobe.Probe`); None if everything was.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> record = vp.profile(torch.nn.Linear(8, 4), torch.ones(2, 8)).records[0]
    >>> record.site.signal, record.kind, record.shape, record.moments.numel
    ('weight', 'Linear', (4, 8), 32)
    """

    run: str = ""
    draw: int = 0
    step: int = 0
    depth: int
    site: Site
    kind: str
    moments: Moments
    shape: tuple[int, ...] = ()
    fan_in: int | None = None
    fan_out: int | None = None
    distinct_rows: int | None = None
    linear_input: LinearInput | None = None
    exponents: Mapping[int, int] | None = None
    backward: int = 0
    sampling: Sampling | None = None

    @property
    def mean_error(self) -> float:
        """Standard error of the mean from reading a sample only, in a; 0 if all was read."""
        variance = self.sampling.sum_variance if self.sampling else 0.0
        return math.sqrt(variance) / max(self.moments.finite, 1)

    @property
    def second_moment_error(self) -> float:
        """Standard error of the second moment from reading a sample only, in a²; 0 if all was."""
        variance = self.sampling.square_sum_variance if self.sampling else 0.0
        return math.sqrt(variance) / max(self.moments.finite, 1)

    @property
    def key(self) -> RecordKey:
        """What must agree for two records to be pooled."""
        return self.run, self.draw, self.step, self.site, self.backward

    def merge(self, other: Record) -> Record:
        """Return the record of both sets of elements together."""
        return replace(
            self,
            depth=min(self.depth, other.depth),
            shape=other.shape,
            moments=self.moments.merge(other.moments),
            exponents=merge_exponents(self.exponents, other.exponents),
            linear_input=merge_linear_inputs(self.linear_input, other.linear_input),
            sampling=self._merge_samplings(other),
        )

    def _merge_samplings(self, other: Record) -> Sampling | None:
        if self.sampling is None and other.sampling is None:
            return None
        # What was read whole is off by nothing.
        one, two = (
            record.sampling
            or Sampling(numel=record.moments.numel, sum_variance=0.0, square_sum_variance=0.0)
            for record in (self, other)
        )
        return one.merge(two)

    def to_row(self) -> dict[str, object]:
        """Return the record as a row of the frame described by `varprobe.schema.RECORDING`."""
        moments, site = self.moments, self.site
        return {
            "run": self.run,
            "draw": self.draw,
            "step": self.step,
            "depth": self.depth,
            "module": site.module,
            "call": site.call,
            "output": site.output,
            "kind": self.kind,
            "signal": site.signal,
            "numel": moments.numel,
            "mean": moments.mean,
            "variance": moments.variance,
            "second_moment": moments.second_moment,
            "abs_max": moments.abs_max,
            "zero_fraction": moments.zero_fraction,
            "nonfinite": moments.nonfinite,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Unobserved:
    """Something that was *not* seen, and why.

    Parameters
    ----------
    module : str
        Name of the module, or of the site within it.
    reason : str
        Why it was not seen.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> attention = torch.nn.MultiheadAttention(8, 2)
    >>> print(vp.profile(attention, 3 * (torch.ones(5, 1, 8),)).unobserved[0])
    out_proj: never called; its weights may be used without it, as a function's arguments
    """

    module: str
    reason: str

    def __str__(self) -> str:
        return f"{self.module or '(root)'}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording(Presentable):
    """Everything that was measured, and the list of what was not.

    Parameters
    ----------
    records : tuple of Record
        One for each (run, draw, step, site), in order of depth within a draw.
    meta : mapping
        Facts about the measurement: model, dtype, batch size, initialization, seed, versions.
    unobserved : tuple of Unobserved
        What was not seen, each with its reason. Nothing is skipped silently.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    >>> recording = vp.profile(model, torch.ones(2, 4))
    >>> recording.to_frame().query("signal == 'activation'")["module"].tolist()
    ['0', '1', '']
    """

    records: tuple[Record, ...]
    meta: Mapping[str, object] = field(default_factory=dict)
    unobserved: tuple[Unobserved, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def select(
        self, *, signal: str | None = None, run: str | None = None, draw: int | None = None
    ) -> tuple[Record, ...]:
        """Return the records that have these values; None matches all."""
        return tuple(
            record
            for record in self.records
            if (signal is None or record.site.signal == signal)
            and (run is None or record.run == run)
            and (draw is None or record.draw == draw)
        )

    @property
    def runs(self) -> tuple[str, ...]:
        """Labels of the runs, in order of appearance."""
        return tuple(dict.fromkeys(record.run for record in self.records))

    @property
    def draws(self) -> int:
        """How many samples of the weights there are, in the run that has most."""
        pairs = {(record.run, record.draw) for record in self.records}
        return max((sum(run == r for r, _ in pairs) for run in self.runs), default=0)

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules with an activation, in order of depth."""
        return tuple(dict.fromkeys(r.site.module for r in self.select(signal="activation")))

    def merge(self, *others: Recording) -> Recording:
        """Pool this recording with ``others``: batches, ranks, draws or runs.

        Records with the same key are pooled exactly; facts of ``meta`` that disagree are dropped.
        """
        pooled: dict[object, Record] = {}
        for recording in (self, *others):
            for record in recording.records:
                known = pooled.get(record.key)
                pooled[record.key] = record if known is None else known.merge(record)
        unobserved = dict.fromkeys(u for r in (self, *others) for u in r.unobserved)
        return Recording(
            records=tuple(pooled.values()),
            meta=keep_agreed([self.meta, *(other.meta for other in others)]),
            unobserved=tuple(unobserved),
        )

    def relabel(self, run: str) -> Recording:
        """Return the same recording as one run named ``run``."""
        return replace(self, records=tuple(replace(record, run=run) for record in self.records))

    def to_frame(self) -> pd.DataFrame:
        """Return a tidy frame with the columns of `varprobe.schema.RECORDING`."""
        return build_frame(RECORDING, (record.to_row() for record in self.records))

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to one JSON file; `load` gives back an equal recording."""
        from varprobe import recording_file

        recording_file.write(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Recording:
        """Read what `save` wrote.

        Raises
        ------
        RecordingFormatError
            If the file is not a recording, is truncated, or was written by a newer format.
        """
        from varprobe import recording_file

        return recording_file.read(path)

    def plot(self, prediction: object = None, **options: object) -> object:
        """Draw second moments over depth: one run beside a prediction, or several runs together.

        See `varprobe.plot_depth` and `varprobe.plot_compare`.
        """
        import varprobe

        draw: Any
        if len(self.runs) > 1 and prediction is None and "run" not in options:
            draw = varprobe.plot_compare
            return draw(self, **options)
        draw = varprobe.plot_depth
        return draw(self, prediction, **options)

    def __repr__(self) -> str:
        # Weights first: they are there before anything runs.
        order = sorted(SIGNALS, key=lambda signal: signal != "weight")
        counts = {signal: len({r.site for r in self.select(signal=signal)}) for signal in order}
        seen = ", ".join(f"{n} {signal}s" for signal, n in counts.items() if n) or "nothing"
        unseen = f", {len(self.unobserved)} unobserved" if self.unobserved else ""
        runs = f"{len(self.runs)} runs, " if len(self.runs) > 1 else ""
        draws = f"{self.draws} draw{'s' if self.draws != 1 else ''}"
        return f"<Recording of {self.meta.get('model', 'a model')}: {runs}{draws}, {seen}{unseen}>"


def keep_agreed(metas: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return the facts that are the same in all of ``metas``."""
    first, *rest = metas
    return {key: value for key, value in first.items() if all(m.get(key) == value for m in rest)}
