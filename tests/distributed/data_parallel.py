"""What the ranks do under data parallelism: jobs for `tests.distributed.ranks`."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

from tests.distributed.models import build, describe_training, loss_of, make_rows, record
from varprobe.monitoring import Monitor
from varprobe.recording import Recording

Wrap = Callable[[nn.Module], nn.Module]


def wrap_ddp(model: nn.Module) -> nn.Module:
    return DistributedDataParallel(model)


def wrap_fsdp2(model: nn.Module) -> nn.Module:
    for layer in (model.up, model.down):
        fully_shard(layer)
    return fully_shard(model)


def wrap_hybrid(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards"))
    fully_shard(model.up, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _wrap_fsdp1(model: nn.Module, *, use_orig_params: bool) -> nn.Module:
    return FullyShardedDataParallel(
        model,
        auto_wrap_policy=ModuleWrapPolicy({nn.Linear}),
        use_orig_params=use_orig_params,
        device_id=torch.device("cpu"),
    )


def wrap_fsdp1(model: nn.Module) -> nn.Module:
    return _wrap_fsdp1(model, use_orig_params=True)


def wrap_fsdp1_flat(model: nn.Module) -> nn.Module:
    return _wrap_fsdp1(model, use_orig_params=False)


def my_rows() -> torch.Tensor:
    return make_rows().chunk(distributed.get_world_size())[distributed.get_rank()]


def gather(wrap: Wrap) -> Recording:
    return record(wrap(build()), my_rows()).gather()


def train_twice(wrap: Wrap, probing: Collection[int]) -> tuple[object, object]:
    """Return what comes of a step without a probe, and with one on some of the ranks."""
    is_here = distributed.get_rank() in probing
    bare, probed = (
        describe_training(wrap(build()), my_rows(), is_probed=is_probed and is_here)
        for is_probed in (False, True)
    )
    return bare, probed


def monitor_training(wrap: Wrap) -> Recording:
    model = wrap(build())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, every=2) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            loss_of(model(my_rows())).backward()
            optimizer.step()
    return monitor.gather()
