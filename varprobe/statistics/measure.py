"""The one interface: `measure` a tensor, whatever it is made of."""

from __future__ import annotations

import torch

from varprobe.statistics import cpu, device
from varprobe.statistics.quiet import everything_off, is_anything_active
from varprobe.statistics.reading import HostReading
from varprobe.statistics.tensors import is_plain, to_dense

WholeReading = HostReading | device.DeviceReading


def measure(tensor: torch.Tensor, *, full: bool) -> WholeReading:
    """Measure one tensor at once, leaving nothing alive of it.

    Parameters
    ----------
    tensor : torch.Tensor
        Any layout, dtype and device; autograd, autocast, inference mode and torch-function modes
        may be active and stay as they are.
    full : bool
        Count exact zeros and the elements by power of two, too.

    Returns
    -------
    HostReading or DeviceReading
        On the host for a CPU tensor, on the device for others, so that nothing waits.

    Raises
    ------
    Unmeasurable
        If the tensor holds no numbers here; the message is the reason.
    """
    reading = cpu.measure_bare(tensor, full=full)
    if reading is not None:
        return reading
    if not is_anything_active() and is_plain(tensor):
        if tensor.is_cpu:
            return cpu.measure(tensor.detach(), full=full)
        if tensor.is_cuda:
            return device.measure(tensor.detach(), implicit_zeros=0, full=full)
    with everything_off(tensor):
        values, implicit_zeros = to_dense(tensor)
        if values.device.type == "mps":
            # It has no float64: exact numbers on the host are worth the wait.
            values = values.cpu()
        if not values.is_cpu:
            return device.measure(values, implicit_zeros=implicit_zeros, full=full)
        reading = cpu.measure(values, full=full)
    if not implicit_zeros:
        return reading
    absent = HostReading(implicit_zeros, 0.0, 0.0, 0.0)
    return reading.merge(absent._replace(zeros=implicit_zeros, exponents={}) if full else absent)
