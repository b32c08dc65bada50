"""What the ranks do when something is amiss: jobs for `tests.distributed.ranks`."""

from __future__ import annotations

import torch
from torch import distributed, nn

from tests.distributed.models import build, make_rows, record
from varprobe.errors import VarprobeError
from varprobe.monitoring import Monitor
from varprobe.probe import Probe
from varprobe.recording import Recording


def _catch(probe: Probe | Monitor, **options: object) -> tuple[str, str]:
    try:
        probe.gather(**options)
    except VarprobeError as error:
        return type(error).__name__, str(error)
    return "no error", ""


def call_on_the_first_rank_only() -> tuple[str, str]:
    probe = Probe(build())
    with probe:
        if distributed.get_rank() == 0:
            probe.model(make_rows())
    return _catch(probe)


def monitor_on_the_first_rank_only() -> tuple[str, str]:
    model = build()
    with Monitor(model) as monitor:
        if distributed.get_rank() == 0:
            model(make_rows())
    return _catch(monitor)


def build_different_models() -> tuple[str, str]:
    width = 8 + distributed.get_rank()
    return _catch(record(nn.Sequential(nn.Linear(8, width)).double(), make_rows()))


class _Broken(Probe):
    @property
    def recording(self) -> Recording:
        raise RuntimeError("the device is gone")


def fail_on_the_last_rank() -> tuple[str, str]:
    is_last = distributed.get_rank() == distributed.get_world_size() - 1
    with (_Broken if is_last else Probe)(build()) as probe:
        probe.model(make_rows())
    return _catch(probe)


def give_a_stage_on_one_rank() -> tuple[str, str]:
    rank = distributed.get_rank()
    return _catch(record(build(), make_rows()), stage=0 if rank == 0 else None)


def gather_from_the_last_two() -> Recording | tuple[str, str]:
    """Gather from ranks 2 and 3 of four, and try to from outside."""
    group = distributed.new_group([2, 3])
    rank = distributed.get_rank()
    probe = record(build(), make_rows().chunk(4)[rank])
    if rank < 2:
        return _catch(probe, group=group)
    return probe.gather(group=group)


class _Forked(nn.Module):
    """Runs one of its parts, by rank."""

    def __init__(self) -> None:
        super().__init__()
        self.always = nn.Linear(8, 8)
        self.experts = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.experts[distributed.get_rank()](self.always(x))


def run_different_parts() -> Recording:
    torch.manual_seed(0)
    return record(_Forked().double(), make_rows()).gather()


def fail_before_the_collective() -> None:
    """Leave the others waiting."""
    if distributed.get_rank() == 0:
        raise RuntimeError("on purpose")
    distributed.barrier()
