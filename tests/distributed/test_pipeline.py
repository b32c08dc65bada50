from __future__ import annotations

import pytest

from tests.distributed import model_parallel as jobs
from tests.distributed.models import assert_alike, build_chain, make_rows, record
from tests.distributed.ranks import Ranks
from varprobe.recording import Recording


@pytest.fixture(scope="module")
def whole() -> Recording:
    """One process, and the whole model."""
    return record(build_chain(), make_rows()).recording


@pytest.mark.parametrize("schedule", list(jobs.SCHEDULES))
@pytest.mark.parametrize("knows_shapes", [True, False])
def test_stages_are_put_behind_each_other(
    ranks: Ranks, whole, schedule: str, knows_shapes: bool
) -> None:
    gathered, other = ranks.run(jobs.gather_pipeline, schedule, knows_shapes, size=2)
    assert other == gathered
    # Four micro-batches, each with an average of its own.
    assert_alike(gathered, whole, {"activation": 1.0, "gradient": 4.0, "weight": 1.0})


def test_the_forward_that_learns_shapes_is_listed_and_not_recorded(ranks: Ranks) -> None:
    gathered, _ = ranks.run(jobs.gather_pipeline, "gpipe", False, size=2)
    assert "forwards by which a pipeline stage learned its tensors' shapes, left out: 1" in {
        line.reason for line in gathered.unobserved
    }


def test_the_output_of_an_inner_stage_is_listed(ranks: Ranks) -> None:
    gathered, _ = ranks.run(jobs.gather_pipeline, "gpipe", True, size=2)
    assert "output of pipeline stage 0: it is no output of the whole model" in "\n".join(
        line.reason for line in gathered.unobserved
    )


def test_pipelines_side_by_side(ranks: Ranks, whole) -> None:
    gathered, *others = ranks.run(jobs.gather_pipeline, "gpipe", False, size=4)
    assert all(other == gathered for other in others)
    assert_alike(gathered, whole, {"activation": 1.0, "gradient": 4.0, "weight": 1.0})


def test_a_pipeline_has_to_say_which_stages(ranks: Ranks) -> None:
    first, second = ranks.run(jobs.gather_pipeline_without_stages, size=2)
    assert first == second
    assert "Ranks 0 and 1 have recorded no module in common" in first
    assert "gather(stage=stage.stage_index)" in first


@pytest.mark.parametrize("probing", [[0, 1], [0], [1]])
def test_a_probe_changes_no_bit_on_any_rank(ranks: Ranks, probing: list[int]) -> None:
    for bare, probed in ranks.run(jobs.run_pipeline_twice, probing, size=2):
        assert bare == probed
