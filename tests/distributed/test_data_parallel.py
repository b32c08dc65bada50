from __future__ import annotations

import pytest
import torch

from tests.distributed import data_parallel as jobs
from tests.distributed.models import (
    assert_alike,
    build,
    by_site,
    loss_of,
    make_rows,
    record,
)
from tests.distributed.ranks import Ranks
from varprobe.monitoring import Monitor
from varprobe.observation.ranks import REDUCED_LATER
from varprobe.recording import Recording

WRAPS = [
    pytest.param(jobs.wrap_ddp, 2, id="ddp-2"),
    pytest.param(jobs.wrap_ddp, 4, id="ddp-4"),
    pytest.param(jobs.wrap_fsdp2, 2, id="fsdp2-2"),
    pytest.param(jobs.wrap_fsdp2, 4, id="fsdp2-4"),
    pytest.param(jobs.wrap_hybrid, 4, id="fsdp2-2x2"),
    pytest.param(jobs.wrap_fsdp1, 2, id="fsdp1"),
    pytest.param(jobs.wrap_fsdp1_flat, 2, id="fsdp1-flat"),
]


@pytest.fixture(scope="module")
def whole() -> Recording:
    """One process, and the whole batch."""
    return record(build(), make_rows()).recording


@pytest.mark.parametrize(("wrap", "size"), WRAPS)
def test_ranks_together_are_the_concatenated_batch(ranks: Ranks, whole, wrap, size: int) -> None:
    gathered, *others = ranks.run(jobs.gather, wrap, size=size)
    assert all(other == gathered for other in others)
    # Each rank averages over its own rows.
    assert_alike(gathered, whole, {"activation": 1.0, "gradient": float(size)})
    assert gathered.meta["world_size"] == size


@pytest.mark.parametrize(("wrap", "size"), WRAPS[:5])
def test_weights_count_once_and_shards_add_up(ranks: Ranks, whole, wrap, size: int) -> None:
    (gathered, *_) = ranks.run(jobs.gather, wrap, size=size)
    assert_alike(gathered, whole, {"weight": 1.0})


@pytest.mark.parametrize("wrap", [jobs.wrap_fsdp1, jobs.wrap_fsdp1_flat])
def test_the_first_fsdp_cuts_parameters_anywhere(ranks: Ranks, whole, wrap) -> None:
    gathered, _ = ranks.run(jobs.gather, wrap, size=2)
    for module in ("up", "down", "head"):
        ours, theirs = (
            [r.moments for r in recording.select(signal="weight") if r.site.module == module]
            for recording in (gathered, whole)
        )
        total, expected = (
            sum(m.numel * m.second_moment for m in found if m.numel) for found in (ours, theirs)
        )
        assert total == pytest.approx(expected, rel=1e-6)


def test_weight_gradients_of_ddp_are_those_of_every_rank(ranks: Ranks) -> None:
    gathered, _ = ranks.run(jobs.gather, jobs.wrap_ddp, size=2)
    first, second = (record(build(), rows).recording for rows in make_rows().chunk(2))
    assert_alike(gathered, first.merge(second), {"weight_gradient": 1.0})
    assert REDUCED_LATER in gathered.unobserved


def test_weight_gradients_that_fsdp_hides_are_listed(ranks: Ranks) -> None:
    gathered, _ = ranks.run(jobs.gather, jobs.wrap_fsdp2, size=2)
    assert by_site(gathered, "weight_gradient") == {}
    hidden = [u.module for u in gathered.unobserved if "FSDP gathers" in u.reason]
    assert hidden == [name for name, _ in build().named_parameters()]


@pytest.mark.parametrize(("wrap", "size"), WRAPS)
def test_a_probe_changes_no_bit_on_any_rank(ranks: Ranks, wrap, size: int) -> None:
    for bare, probed in ranks.run(jobs.train_twice, wrap, range(size), size=size):
        assert bare == probed


@pytest.mark.parametrize("wrap", [jobs.wrap_ddp, jobs.wrap_fsdp2])
def test_one_rank_may_probe_alone(ranks: Ranks, wrap) -> None:
    for bare, probed in ranks.run(jobs.train_twice, wrap, [0], size=2):
        assert bare == probed


def test_a_monitor_gathers_every_step(ranks: Ranks) -> None:
    gathered, other = ranks.run(jobs.monitor_training, jobs.wrap_ddp, size=2)
    assert gathered == other
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, every=2) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            loss_of(model(make_rows())).backward()
            optimizer.step()
    assert {r.step for r in gathered} == {0, 2}
    assert [r.key for r in gathered] == [r.key for r in monitor.recording]
    for ours, theirs in zip(gathered, monitor.recording, strict=True):
        factor = 4.0 if ours.site.signal == "gradient" else 1.0
        assert ours.moments.numel == theirs.moments.numel
        assert ours.moments.second_moment == pytest.approx(
            factor * theirs.moments.second_moment, rel=1e-6
        )
