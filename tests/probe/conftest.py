"""No test of a probe may leave a mode of its on torch's stack."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_mode_is_left():
    yield
    import torch

    assert torch._C._len_torch_function_stack() == 0
