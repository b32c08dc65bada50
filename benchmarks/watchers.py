"""The ways to watch a training step whose costs overhead.py compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

import varprobe as vp

SIGNALS = ("activation", "gradient")

EVERY = 100
"""Steps of which a monitor samples one."""

Step = Callable[[], object]


class Training:
    """A model, one batch, and the step that is repeated."""

    def __init__(self, model: nn.Module, batch: torch.Tensor) -> None:
        self.model = model
        self.batch = batch
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step(self) -> None:
        """Go forward, backward and on."""
        self.optimizer.zero_grad()
        self.model(self.batch).square().mean().backward()
        self.optimizer.step()


@contextmanager
def watch_all_steps(training: Training) -> Iterator[Step]:
    """Yield the step under a probe that stays on."""
    with vp.Probe(training.model, signals=SIGNALS):
        yield training.step


@contextmanager
def watch_one_step(training: Training) -> Iterator[Step]:
    """Yield the step in a probe of its own."""

    def step() -> None:
        with vp.Probe(training.model, signals=SIGNALS):
            training.step()

    yield step


@contextmanager
def watch_every_hundredth_step(training: Training) -> Iterator[Step]:
    """Yield the step under a monitor."""
    with vp.Monitor(training.model, every=EVERY, signals=SIGNALS):
        yield training.step


@contextmanager
def watch_by_hand(training: Training) -> Iterator[Step]:
    """Yield the step under the twenty lines that one writes without a library."""
    seen = {}

    def see(name: str, signal: str, tensor: torch.Tensor) -> None:
        values = tensor.detach()
        low, high = values.aminmax()
        abs_max = max(-low.item(), high.item())
        seen[name, signal] = values.mean().item(), values.square().mean().item(), abs_max

    def make_hook(name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def hook(_module: nn.Module, _args: object, output: torch.Tensor) -> None:
            see(name, "activation", output)
            output.register_hook(lambda gradient: see(name, "gradient", gradient))

        return hook

    modules = training.model.named_modules()
    handles = [module.register_forward_hook(make_hook(name)) for name, module in modules]
    yield training.step
    for handle in handles:
        handle.remove()


@contextmanager
def watch_with_torchlens(training: Training) -> Iterator[Step]:
    """Yield the step as torchlens traces it, forward and backward."""
    import torchlens

    # It wraps torch's functions while it works; left wrapped they would slow the others down.
    options = torchlens.options.CaptureOptions(save_grads=True, unwrap_when_done=True)

    def step() -> None:
        training.optimizer.zero_grad()
        trace = torchlens.trace(training.model, training.batch, capture=options)
        trace.log_backward(trace[trace.output_layers[0]].out.square().mean())
        training.optimizer.step()

    yield step


Watcher = Callable[[Training], AbstractContextManager[Step]]

WATCHERS: dict[str, Watcher] = {
    "varprobe": watch_all_steps,
    "one step": watch_one_step,
    "every=100": watch_every_hundredth_step,
    "by hand": watch_by_hand,
    "torchlens": watch_with_torchlens,
}
