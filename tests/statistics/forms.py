"""All that measures a tensor, behind one interface: ``measured(values, full=...)``.

Without a GPU the fused kernels run in Triton's interpreter, which executes their blocks one after
the other with numpy.
"""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType
from unittest import mock

import pytest
import torch

from varprobe.statistics import device, masked, measure, read, reference
from varprobe.statistics.reading import HostReading

HAS_CUDA = torch.cuda.is_available()
CUDA = [pytest.mark.cuda, pytest.mark.skipif(not HAS_CUDA, reason="there is no CUDA device")]
HAS_TRITON = find_spec("triton") is not None
TRITON = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
INTERPRETER = pytest.mark.skipif(
    HAS_CUDA or not HAS_TRITON, reason="needs Triton, and no GPU that it would compile for"
)


def load_fused() -> ModuleType:
    from varprobe.statistics import fused

    return fused


def measure_cpu(values: torch.Tensor, *, full: bool) -> HostReading:
    return read(measure(values, full=full))


def measure_masked(values: torch.Tensor, *, full: bool) -> HostReading:
    """Run the path of accelerators on the CPU: its arithmetic does not depend on the device."""
    numbers, bins = masked.measure(values.reshape(-1), full=full)
    return device.DeviceReading(numbers, bins, full).read()


def measure_fused(values: torch.Tensor, *, full: bool) -> HostReading:
    form = load_fused()
    # An operation of the interpreter takes 50 µs, whatever the width of the block.
    with mock.patch.object(form, "ROW_BYTES", 8 * form.ROW_BYTES):
        numbers, bins = form.measure(values.reshape(-1), full=full)
    return device.DeviceReading(numbers, bins, full).read()


def measure_cuda(values: torch.Tensor, *, full: bool) -> HostReading:
    return measure_cpu(values.cuda(), full=full)


def measure_cuda_masked(values: torch.Tensor, *, full: bool) -> HostReading:
    return measure_masked(values.cuda(), full=full)


def measure_reference(values: torch.Tensor, *, full: bool) -> HostReading:
    exponents = reference.count_exponents(values) if full else None
    return HostReading.of(reference.measure(values, zeros=full), exponents)


MEASURES = pytest.mark.parametrize(
    "measured",
    [
        measure_cpu,
        measure_masked,
        pytest.param(measure_fused, marks=INTERPRETER),
        pytest.param(measure_cuda, marks=(*CUDA, TRITON)),
        pytest.param(measure_cuda_masked, marks=CUDA),
        measure_reference,
    ],
)
