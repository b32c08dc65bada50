from __future__ import annotations

import pytest

from tests.distributed import mishaps as jobs
from tests.distributed.models import assert_alike, build, make_rows, record
from tests.distributed.ranks import Ranks


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (jobs.call_on_the_first_rank_only, "Net was not called while the probe was on."),
        (jobs.monitor_on_the_first_rank_only, "Net was not called while the monitor was on."),
    ],
)
def test_nothing_on_one_rank_is_an_error_on_all(ranks: Ranks, job, reason: str) -> None:
    first, second = ranks.run(job, size=2)
    assert first == second
    name, message = first
    assert name == "NothingRecordedError"
    assert message.startswith("VP001: 1 of 2 ranks recorded nothing, and nothing was gathered. ")
    assert f"Rank 1: VP001: {reason}" in message


def test_different_models_are_an_error_on_all(ranks: Ranks) -> None:
    first, second = ranks.run(jobs.build_different_models, size=2)
    assert first == second
    assert first == (
        "InvalidArgumentError",
        "0.weight is a Linear of fan-in 8, fan-out 8 on rank 0 and a Linear of fan-in 8, fan-out "
        "9 on rank 1: these are different models. Build the same model on every rank; a part of a "
        "pipeline has the names of the whole model, and is gathered with stage=.",
    )


def test_whatever_fails_on_one_rank_is_an_error_on_all(ranks: Ranks) -> None:
    answers = ranks.run(jobs.fail_on_the_last_rank, size=2)
    assert answers == 2 * [
        (
            "VarprobeError",
            "1 of 2 ranks could not read what they recorded. "
            "Rank 1: RuntimeError('the device is gone')",
        )
    ]


def test_a_stage_on_some_ranks_is_an_error_on_all(ranks: Ranks) -> None:
    first, second = ranks.run(jobs.give_a_stage_on_one_rank, size=2)
    assert first == second
    assert first[1].startswith("Ranks 1 gave no stage and the others did.")


def test_a_group_of_some_ranks(ranks: Ranks) -> None:
    *outside, first, second = ranks.run(jobs.gather_from_the_last_two, size=4)
    assert first == second
    assert first.meta["world_size"] == 2
    half = record(build(), make_rows()[8:]).recording
    assert_alike(first, half, {"activation": 1.0, "gradient": 2.0, "weight": 1.0})
    for rank, (name, message) in enumerate(outside):
        assert name == "InvalidArgumentError"
        assert message.startswith(f"Rank {rank} is not in the group that was given")


def test_what_only_one_rank_ran_is_there_and_its_absence_elsewhere_too(ranks: Ranks) -> None:
    gathered, _ = ranks.run(jobs.run_different_parts, size=2)
    numels = {r.site.module: r.moments.numel for r in gathered.select(signal="activation")}
    # Both ranks ran the same rows: copies where the same layers ran.
    assert numels == {"always": 128, "experts.0": 128, "experts.1": 128, "": 256}
    never = [line for line in gathered.unobserved if line.reason.startswith("never called")]
    assert [(line.module, line.reason[-11:]) for line in never] == [
        ("experts.1", "(on rank 0)"),
        ("experts.0", "(on rank 1)"),
    ]


def test_without_a_process_group_there_is_one_rank() -> None:
    probe = record(build(), make_rows())
    assert probe.gather() == probe.recording


def test_a_job_that_fails_leaves_no_process_behind() -> None:
    pool = Ranks()
    with pytest.raises(AssertionError, match="on purpose"):
        pool.run(jobs.fail_before_the_collective, size=2)
    assert pool._processes == []
