from __future__ import annotations

import pytest

from tests.distributed import model_parallel as jobs
from tests.distributed.models import assert_alike, build, by_site, make_rows, record
from tests.distributed.ranks import Ranks
from varprobe.recording import Recording

CUTS = [
    pytest.param(jobs.cut_plainly, 2, id="plain-2"),
    pytest.param(jobs.cut_plainly, 4, id="plain-4"),
    pytest.param(jobs.cut_sequence, 2, id="sequence-2"),
    pytest.param(jobs.cut_sequence, 4, id="sequence-4"),
]


@pytest.fixture(scope="module")
def whole() -> Recording:
    """One process, and the whole model."""
    return record(build(), make_rows()).recording


@pytest.mark.parametrize(("cut", "size"), CUTS)
def test_shards_add_up_and_copies_count_once(ranks: Ranks, whole, cut, size: int) -> None:
    gathered, *others = ranks.run(jobs.gather, cut, size=size)
    assert all(other == gathered for other in others)
    assert_alike(gathered, whole, {"activation": 1.0, "gradient": 1.0, "weight": 1.0})


@pytest.mark.parametrize("size", [2, 4])
def test_weight_gradients_are_whole_where_data_are(ranks: Ranks, whole, size: int) -> None:
    (gathered, *_) = ranks.run(jobs.gather, jobs.cut_plainly, size=size)
    assert_alike(gathered, whole, {"weight_gradient": 1.0})


def test_a_summand_is_listed(ranks: Ranks) -> None:
    # Each rank saw some of the rows: what it has of the norm's gradient is to be added up.
    gathered, _ = ranks.run(jobs.gather, jobs.cut_sequence, size=2)
    assert "norm.weight" not in by_site(gathered, "weight_gradient")
    (line,) = (u for u in gathered.unobserved if u.module == "norm.weight")
    assert line.reason == (
        "weight_gradient: a DTensor with Partial placement: this rank holds only a summand"
    )


def test_a_module_that_returns_summands_is_listed(ranks: Ranks) -> None:
    gathered, _ = ranks.run(jobs.gather_summands, size=2)
    assert "1" not in by_site(gathered, "activation")
    reasons = [u.reason for u in gathered.unobserved if u.module == "1"]
    assert any("activation: a DTensor with Partial placement" in reason for reason in reasons)


@pytest.mark.parametrize("cut", [jobs.cut_plainly, jobs.cut_sequence])
@pytest.mark.parametrize("is_sharded", [False, True])
def test_two_dimensions(ranks: Ranks, whole, cut, is_sharded: bool) -> None:
    gathered, *others = ranks.run(jobs.gather_in_two_dimensions, cut, is_sharded, size=4)
    assert all(other == gathered for other in others)
    # Two halves of the batch, each with an average of its own.
    assert_alike(gathered, whole, {"activation": 1.0, "gradient": 2.0, "weight": 1.0})


@pytest.mark.parametrize(("cut", "size"), CUTS)
def test_a_probe_changes_no_bit_on_any_rank(ranks: Ranks, cut, size: int) -> None:
    for bare, probed in ranks.run(jobs.train_twice, cut, range(size), size=size):
        assert bare == probed


@pytest.mark.parametrize("cut", [jobs.cut_plainly, jobs.cut_sequence])
def test_one_rank_may_probe_alone(ranks: Ranks, cut) -> None:
    for bare, probed in ranks.run(jobs.train_twice, cut, [1], size=2):
        assert bare == probed
