"""The one collective: every rank of a group gives its recording, and gets that of them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import distributed

from varprobe.errors import InvalidArgumentError, NothingRecordedError, VarprobeError
from varprobe.observation.parts import Part
from varprobe.observation.ranks import Share, merge_ranks
from varprobe.recording import Recording, RecordKey

Read = Callable[[], tuple[Recording, Mapping[RecordKey, Part]]]
"""Returns what this rank has recorded, and of which parts of distributed tensors."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a rank gives that could not read its recording: the others wait for something."""

    rank: int
    message: str
    is_nothing: bool


def gather(read: Read, *, group: distributed.ProcessGroup | None, stage: int | None) -> Recording:
    """Return what all ranks of ``group`` recorded; see `varprobe.Probe.gather`."""
    if not distributed.is_available() or not distributed.is_initialized():
        return read()[0]
    rank = distributed.get_rank()
    if distributed.get_rank(group) < 0:
        raise InvalidArgumentError(
            f"Rank {rank} is not in the group that was given, and cannot gather from it. Call "
            "gather() on the ranks of the group only."
        )
    mine, error = _prepare(read, rank, stage)
    answers: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(answers, mine, group=group)
    failures = [answer for answer in answers if isinstance(answer, _Failure)]
    if failures:
        raise _describe(failures, len(answers)) from error
    return merge_ranks(answers)


def _prepare(read: Read, rank: int, stage: int | None) -> tuple[Share | _Failure, Exception | None]:
    try:
        recording, parts = read()
    except Exception as error:
        message = str(error) if isinstance(error, VarprobeError) else repr(error)
        return _Failure(rank, message, isinstance(error, NothingRecordedError)), error
    return Share(rank=rank, recording=recording, parts=parts, stage=stage), None


def _describe(failures: Sequence[_Failure], size: int) -> VarprobeError:
    reasons = " ".join(f"Rank {failure.rank}: {failure.message}" for failure in failures)
    if all(failure.is_nothing for failure in failures):
        return NothingRecordedError(
            f"VP001: {len(failures)} of {size} ranks recorded nothing, and nothing was gathered. "
            f"{reasons}"
        )
    return VarprobeError(
        f"{len(failures)} of {size} ranks could not read what they recorded. {reasons}"
    )
