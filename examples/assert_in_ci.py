"""Let CI fail when somebody breaks the initialization of a model.

In a project this file is called tests/test_my_model.py and pytest finds it. It is a unit test like
any other: no training, no data, a second or two, and a failure that names the layers, the numbers
and the remedy.
"""

import pytest
import torch
from torch import nn

import varprobe as vp


def build_model(*, scale: float = 1.0) -> nn.Module:
    """Return the model under test; ``scale`` is the mistake that somebody will make."""
    layers = [layer for _ in range(20) for layer in (nn.Linear(128, 128), nn.ReLU())]
    model = vp.initialize(nn.Sequential(*layers), "kaiming_normal")
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(scale)
    return model


def test_signal_propagates() -> None:
    """Fail if activations or gradients vanish or explode, on any of three draws."""
    vp.assert_healthy(build_model, torch.randn(32, 128), draws=3)


def test_the_mistake_would_be_caught() -> None:
    """Show what the failure says."""
    with pytest.raises(vp.PropagationError, match="VP301") as failure:
        vp.assert_healthy(lambda: build_model(scale=0.7), torch.randn(32, 128))
    print(f"\n{failure.value}")


if __name__ == "__main__":  # what pytest does with them
    test_signal_propagates()
    test_the_mistake_would_be_caught()
