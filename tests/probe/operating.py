"""A model of operations, the same by hand, and what a probe saw of them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.probe.scenario import Twin
from varprobe import Recording


class Block(nn.Module):
    """Attention by hand and a gated unit, both residual, partly in place."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.up, self.down = nn.Linear(6, 18), nn.Linear(6, 12), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        weights = F.softmax(q @ k.transpose(-1, -2) / 6**0.5, dim=-1)
        x = x + weights @ v
        value, gate = self.up(x).split(6, dim=-1)
        h = value * gate.sigmoid()
        h += 1.0
        return x.add(self.down(F.relu(h, inplace=True)))


class Gelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x)


class Net(nn.Module):
    """A block that is called twice, and an operation in the root."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.act, self.head = Block(), Gelu(), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.block(x))
        return self.head(self.block(x) - x.mean(0)) * 2.0


def see_block(block: Block, x: torch.Tensor, see: Twin, call: int) -> torch.Tensor:
    def op(value: torch.Tensor, name: str) -> torch.Tensor:
        return see("block", value, call=call, output=name)

    q, k, v = see("block.qkv", block.qkv(x), call=call).chunk(3, dim=-1)
    weights = op(op(q @ k.transpose(-1, -2), "matmul()") / 6**0.5, "div()")
    weights = op(torch.softmax(weights, -1), "softmax()")
    x = op(x + op(weights @ v, "matmul().1"), "add()")
    value, gate = see("block.up", block.up(x), call=call).split(6, dim=-1)
    h = op(value * op(torch.sigmoid(gate), "sigmoid()"), "mul()")
    h = op(torch.relu(op(h + 1.0, "add().1")), "relu()")
    # The last addition is the block's output.
    return see("block", x + see("block.down", block.down(h), call=call), call=call)


def see_net(net: Net, x: torch.Tensor, see: Twin) -> torch.Tensor:
    x = see("act", F.gelu(see_block(net.block, x, see, 0)))
    h = see_block(net.block, x, see, 1)
    centred = see("", h - see("", x.mean(0), output="mean()"), output="sub()")
    return see("", see("head", net.head(centred)) * 2.0)


def find(recording: Recording, signal: str = "activation") -> list[str]:
    return [str(r.site) for r in recording.select(signal=signal) if r.site.is_operation]


def depth_of_stack() -> int:
    return torch._C._len_torch_function_stack()
