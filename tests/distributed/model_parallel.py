"""What the ranks do when they cut the model: jobs for `tests.distributed.ranks`."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from tests.distributed.models import (
    SIGNALS,
    build,
    build_chain,
    describe_training,
    loss_of,
    make_rows,
    record,
)
from varprobe.probe import Probe
from varprobe.recording import Recording

Cut = Callable[[nn.Module, DeviceMesh], nn.Module]


def cut_plainly(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Modules return plain tensors, shards and copies alike."""
    return parallelize_module(model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})


def cut_sequence(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Modules return DTensors, cut along the rows outside of the pair of layers."""
    plan = {
        "norm": SequenceParallel(sequence_dim=0),
        "up": ColwiseParallel(input_layouts=Shard(0), use_local_output=False),
        "down": RowwiseParallel(output_layouts=Shard(0), use_local_output=False),
        "head": ColwiseParallel(
            input_layouts=Shard(0), output_layouts=Replicate(), use_local_output=False
        ),
    }
    return parallelize_module(model, mesh, plan)


def _lay_out(x: torch.Tensor, cut: Cut, mesh: DeviceMesh) -> torch.Tensor:
    if cut is cut_plainly:
        return x
    copies = DTensor.from_local(x, mesh, [Replicate()])
    return copies.redistribute(placements=[Shard(0)])


def _make_mesh() -> DeviceMesh:
    return init_device_mesh("cpu", (distributed.get_world_size(),), mesh_dim_names=("tensor",))


def gather(cut: Cut) -> Recording:
    mesh = _make_mesh()
    return record(cut(build(), mesh), _lay_out(make_rows(), cut, mesh)).gather()


def train_twice(cut: Cut, probing: Collection[int]) -> tuple[object, object]:
    """Return what comes of a step without a probe, and with one on some of the ranks."""
    mesh = _make_mesh()
    bare, probed = (
        describe_training(
            cut(build(), mesh),
            _lay_out(make_rows(), cut, mesh),
            is_probed=is_probed and distributed.get_rank() in probing,
        )
        for is_probed in (False, True)
    )
    return bare, probed


def gather_in_two_dimensions(cut: Cut, is_sharded: bool) -> Recording:
    """Cut the batch over one dimension of the mesh and the model over the other."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    model = cut(build(), mesh["tensor"])
    if is_sharded:
        fully_shard(model, mesh=mesh["data"])
    rows = make_rows().chunk(2)[mesh["data"].get_local_rank()]
    return record(model, _lay_out(rows, cut, mesh["tensor"])).gather()


class _Summand(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return DTensor.from_local(x, _make_mesh(), [Partial()])


def gather_summands() -> Recording:
    """Have a module return a tensor of which every rank holds a summand."""
    model = nn.Sequential(nn.Linear(8, 8), _Summand())
    with Probe(model) as probe:
        model(torch.randn(2, 8)).full_tensor().sum().backward()
    return probe.gather()


def _make_stage(part: nn.Module, index: int, *, knows_shapes: bool) -> PipelineStage:
    shapes = {}
    if knows_shapes:
        width = 8 if index == 0 else 4
        shapes = {
            "input_args": torch.zeros(4, 8, dtype=torch.float64, requires_grad=index > 0),
            "output_args": torch.zeros(4, width, dtype=torch.float64, requires_grad=True),
        }
    group = distributed.group.WORLD
    if distributed.get_world_size() == 4:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("stage", "data"))
        group = mesh["stage"].get_group()
    return PipelineStage(part, index, 2, torch.device("cpu"), group=group, **shapes)


def _run_pipeline(schedule: type, *, knows_shapes: bool, is_probed: bool) -> tuple[Probe, object]:
    world = distributed.get_world_size()
    index, column = divmod(distributed.get_rank(), world // 2)
    whole = build_chain()
    part = whole[:2] if index == 0 else whole[2:]
    rows = make_rows().chunk(world // 2)[column]
    micro_batches = len(rows) // 4
    stage = _make_stage(part, index, knows_shapes=knows_shapes)
    running = schedule(stage, n_microbatches=micro_batches, loss_fn=lambda y, _: loss_of(y))
    probe = Probe(part, stats="full", signals=SIGNALS)
    if is_probed:
        probe.start()
    targets = torch.zeros(len(rows), 1)
    output = running.step(rows) if index == 0 else running.step(target=targets)
    probe.stop()
    result = [output, *(p.grad for p in part.parameters())]
    return probe, [None if t is None else t.detach().numpy().tobytes() for t in result]


SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


def gather_pipeline(schedule: str, knows_shapes: bool) -> Recording:
    probe, _ = _run_pipeline(SCHEDULES[schedule], knows_shapes=knows_shapes, is_probed=True)
    index = distributed.get_rank() // (distributed.get_world_size() // 2)
    return probe.gather(stage=index)


def run_pipeline_twice(probing: Collection[int]) -> tuple[object, object]:
    """Return what comes of a pipeline's step without a probe, and with one on some ranks."""
    is_here = distributed.get_rank() in probing
    bare, probed = (
        _run_pipeline(ScheduleGPipe, knows_shapes=False, is_probed=is_probed and is_here)[1]
        for is_probed in (False, True)
    )
    return bare, probed


def gather_pipeline_without_stages() -> str:
    probe, _ = _run_pipeline(ScheduleGPipe, knows_shapes=True, is_probed=True)
    try:
        probe.gather()
    except ValueError as error:
        return str(error)
    return "no error"
