"""What every test may rely on: one thread, no screen, seeded generators, repeatable properties."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Read when torch and matplotlib are first imported, here and in the processes that tests start.
# One thread each: the test processes already share the cores, and sums keep their order.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

# Deadlines measure the machine. In CI the examples are the same on every run, so that a failure
# belongs to the change that it is reported on.
settings.register_profile("varprobe", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("varprobe")


def pytest_configure() -> None:
    """Without a GPU let Triton interpret its kernels; it asks once, when anybody imports it."""
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same state of the global generator."""
    import torch

    torch.manual_seed(0)
