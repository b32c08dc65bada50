"""The gate as a test: `pytest -m propagation` runs what uses the fixture, and nothing else."""

import torch
from models import build

from varprobe.pytest_plugin import Propagation


def test_signal_propagates(propagation: Propagation) -> None:
    """Fail if signal stops propagating, or if it has drifted from what somebody agreed to.

    After a change that is meant, `pytest --varprobe-update-baselines` writes the file again.
    """
    inputs = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    propagation.assert_healthy(build, inputs, baseline="baselines/test_models.json")
