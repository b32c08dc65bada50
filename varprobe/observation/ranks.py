"""Make one recording of what several ranks have recorded of one model.

Ranks hold copies of a tensor, or different parts of it: rows of the batch, shards, stages of a
pipeline. Copies count once and parts are pooled. What a tensor is, a DTensor says. Of a plain one
nothing tells, but its numbers do: see `_count_once`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

from varprobe.errors import InvalidArgumentError
from varprobe.moments import Moments
from varprobe.observation.parts import Part
from varprobe.recording import Record, Recording, RecordKey, Unobserved, keep_agreed

CONSTANT = 1e-12
"""Share of the variance in the second moment below which elements are all alike: a thousandth of
what float32's last digit makes, so that only equal numbers in different words are below it."""

WHOLE = ("weight", "weight_gradient")
"""Signals of parameters. Equal ones of one name are copies, be they constant: a bias of zeros."""

REDUCED_LATER = Unobserved(
    module="",
    reason="weight_gradient: recorded on each rank before the ranks' gradients were reduced, and "
    "pooled over the ranks; the reduced gradient, which the optimizer sees, was not seen",
)

_Found = tuple[str, Record]
"""A record, and where it is from: a rank or a stage, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one rank brings.

    Parameters
    ----------
    rank : int
        Its global rank.
    recording : Recording
        What it recorded.
    parts : mapping
        Which part of a distributed tensor a record is of; by the records' keys.
    stage : int or None
        Which stage of a pipeline it recorded.
    """

    rank: int
    recording: Recording
    parts: Mapping[RecordKey, Part] = field(default_factory=dict)
    stage: int | None = None


def merge_ranks(shares: Sequence[Share]) -> Recording:
    """Return the recording of all ranks together.

    Raises
    ------
    InvalidArgumentError
        If the shares are not of one model.
    """
    stages = _sort_by_stage(shares)
    recordings = [_merge_stage(members) for members in stages.values()]
    whole = recordings[0] if len(recordings) == 1 else _chain(list(stages), recordings)
    return replace(whole, meta={**whole.meta, "world_size": len(shares)})


def _sort_by_stage(shares: Sequence[Share]) -> dict[int | None, list[Share]]:
    silent = [share.rank for share in shares if share.stage is None]
    if silent and len(silent) < len(shares):
        raise InvalidArgumentError(
            f"Ranks {_list(silent)} gave no stage and the others did. Give stage= on every rank, "
            "or on none."
        )
    if silent:
        _check_common_modules(shares)
        return {None: list(shares)}
    order = sorted({share.stage for share in shares if share.stage is not None})
    if order != list(range(len(order))):
        raise InvalidArgumentError(
            f"The ranks gave the stages {_list(order)}, expected 0 to n-1 without a gap: one stage "
            "a rank, and every stage of the pipeline."
        )
    return {stage: [share for share in shares if share.stage == stage] for stage in order}


def _check_common_modules(shares: Sequence[Share]) -> None:
    parts = [(s.rank, {r.site.module for r in s.recording.records} - {""}) for s in shares]
    (first, known), *others = parts
    for rank, modules in others:
        if known and modules and known.isdisjoint(modules):
            raise InvalidArgumentError(
                f"Ranks {first} and {rank} have recorded no module in common: {min(known)!r} … on "
                f"the one, {min(modules)!r} … on the other. Ranks of one model share its modules. "
                "If these hold stages of a pipeline, say which: "
                "gather(stage=stage.stage_index) on every rank."
            )


def _merge_stage(shares: Sequence[Share]) -> Recording:
    by_key: dict[RecordKey, list[tuple[Share, Record]]] = {}
    for share in shares:
        for record in share.recording.records:
            by_key.setdefault(record.key, []).append((share, record))
    records, is_reduced_later = [], False
    for key, found in by_key.items():
        _check_alike([(f"rank {share.rank}", record) for share, record in found])
        held = _drop_copies([(share.rank, share.parts.get(key), r) for share, r in found])
        kept = _count_once(held)
        if key[3].signal == "weight_gradient":
            shards = Counter(part.shard if part else () for part, _ in kept)
            is_reduced_later |= max(shards.values()) > 1
        records.append(reduce(Record.merge, [record for _, record in kept]))
    return Recording(
        records=_sort(records),
        meta=keep_agreed([share.recording.meta for share in shares]),
        unobserved=(*_list_unobserved(shares), *([REDUCED_LATER] if is_reduced_later else [])),
    )


def _drop_copies(
    held: Sequence[tuple[int, Part | None, Record]],
) -> list[tuple[Part | None, Record]]:
    """Leave out the records of a part that a lower rank has recorded, too."""
    ranks = {rank for rank, _, _ in held}
    return [
        (part, record)
        for rank, part, record in held
        if part is None or rank == min(ranks.intersection(part.ranks))
    ]


def _count_once(held: Sequence[tuple[Part | None, Record]]) -> list[tuple[Part | None, Record]]:
    """Leave each of the different records, if all of them are there equally often.

    Copies are made of the same numbers by the same operations, and agree bit for bit; different
    rows of a batch do not. What comes equally often may as well come once: this changes no moment,
    whatever the reason was, but the number of elements. Constants are alike on all rows (the
    gradient of a sum), and say nothing.
    """
    different = {_identify(part, record): (part, record) for part, record in held}
    counts = Counter(_identify(part, record) for part, record in held)
    is_even = len(set(counts.values())) == 1
    speaks = any(r.site.signal in WHOLE or not _is_constant(r.moments) for _, r in held)
    return list(different.values()) if is_even and speaks else list(held)


def _identify(part: Part | None, record: Record) -> Hashable:
    bins = None if record.exponents is None else tuple(sorted(record.exponents.items()))
    return part.shard if part else (), record.moments, bins, record.linear_input


def _is_constant(moments: Moments) -> bool:
    return not moments.finite or moments.variance <= CONSTANT * moments.second_moment


def _check_alike(found: Sequence[_Found]) -> None:
    (first, known), *others = found
    for where, record in others:
        mine, other = _describe(known), _describe(record)
        if mine != other:
            raise InvalidArgumentError(
                f"{known.site} is {mine} on {first} and {other} on {where}: these are different "
                "models. Build the same model on every rank; a part of a pipeline has the names "
                "of the whole model, and is gathered with stage=."
            )


def _describe(record: Record) -> str:
    fans = "" if record.fan_in is None else f" of fan-in {record.fan_in}, fan-out {record.fan_out}"
    return f"a {record.kind}{fans}"


def _sort(records: Sequence[Record]) -> tuple[Record, ...]:
    steps = {(r.run, r.draw, r.step): None for r in records}
    order = {step: index for index, step in enumerate(steps)}
    return tuple(sorted(records, key=lambda r: (order[r.run, r.draw, r.step], r.depth)))


def _list_unobserved(shares: Sequence[Share]) -> Iterator[Unobserved]:
    where: dict[Unobserved, list[int]] = {}
    for share in shares:
        for line in dict.fromkeys(share.recording.unobserved):
            where.setdefault(line, []).append(share.rank)
    for line, ranks in where.items():
        some = f" (on rank{'s' * (len(ranks) > 1)} {_list(ranks)})"
        yield replace(line, reason=line.reason + some * (len(ranks) < len(shares)))


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _chain(stages: Sequence[int | None], recordings: Sequence[Recording]) -> Recording:
    """Put the stages of a pipeline behind each other."""
    chained: dict[RecordKey, _Found] = {}
    unobserved: dict[Unobserved, None] = {}
    depth, calls = 0, Counter[str]()
    for stage, recording in zip(stages, recordings, strict=True):
        where, is_last = f"stage {stage}", stage == stages[-1]
        if not any(r.site.module for r in recording.records):
            raise InvalidArgumentError(
                f"The module of {where} has no parts with names, and without a name it cannot be "
                "told from the other stages. Cut the stages out of the whole model, such as "
                "model[:4] of an nn.Sequential, so that their parts keep their names."
            )
        if not is_last:
            unobserved[_report_inner_root(where)] = None
        unobserved.update(dict.fromkeys(recording.unobserved))
        kept = [r for r in recording if is_last or r.site.module or r.site.signal in WHOLE]
        for record in kept:
            moved = _move(record, depth, calls[record.site.module])
            known = chained.setdefault(moved.key, (where, moved))
            chained[moved.key] = joined = _join(known, (where, moved))
            if joined is not known:
                unobserved[REDUCED_LATER] = None
        for module in {r.site.module for r in recording.records} - {""}:
            calls[module] += _count_calls(recording, module)
        depth += 1 + max(record.depth for record in kept if record.site.module)
    return Recording(
        records=_sort([record for _, record in chained.values()]),
        meta=keep_agreed([recording.meta for recording in recordings]),
        unobserved=tuple(unobserved),
    )


def _report_inner_root(where: str) -> Unobserved:
    reason = "is no output of the whole model; the module that made it has the record"
    return Unobserved(module="", reason=f"output of pipeline {where}: it {reason}")


def _move(record: Record, depth: int, calls: int) -> Record:
    # A module that several stages call is called by the whole model as often.
    site = record.site
    if site.signal not in WHOLE and site.call >= 0:
        site = replace(site, call=site.call + calls)
    return replace(record, depth=record.depth + depth, site=site)


def _count_calls(recording: Recording, module: str) -> int:
    sites = (r.site for r in recording.records if r.site.signal not in WHOLE)
    return max((site.call + 1 for site in sites if site.module == module), default=0)


def _join(known: _Found, again: _Found) -> _Found:
    """Return the record of a parameter that several stages hold: the same one for them all."""
    _check_alike([known, again])
    (first, one), (where, other) = known, again
    if _identify(None, one) == _identify(None, other):
        return known
    if one.site.signal == "weight":
        raise InvalidArgumentError(
            f"{one.site} is another parameter on {first} than on {where}. Give the modules of a "
            "stage the names that they have in the whole model."
        )
    return first, one.merge(other)
