"""The one interface: `measure` a tensor, `read` what it yielded."""

from __future__ import annotations

import torch

from varprobe.moments import Moments
from varprobe.statistics import cpu, device
from varprobe.statistics.quiet import quiet
from varprobe.statistics.reading import HostReading
from varprobe.statistics.tensors import to_dense

Reading = HostReading | device.DeviceReading


def measure(tensor: torch.Tensor, *, full: bool) -> Reading:
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
    Reading
        On the host for a CPU tensor, on the device for others, so that nothing waits.

    Raises
    ------
    Unmeasurable
        If the tensor holds no numbers here; the message is the reason.
    """
    with quiet(tensor):
        values, implicit_zeros = to_dense(tensor)
        if values.device.type == "mps":
            # It has no float64: exact numbers on the host are worth the wait.
            values = values.cpu()
        if not values.is_cpu:
            return device.measure(values, implicit_zeros=implicit_zeros, full=full)
        moments = cpu.measure(values, zeros=full)
        exponents = cpu.count_exponents(values) if full else None
    if implicit_zeros:
        zeros = implicit_zeros if full else None
        absent = Moments(numel=implicit_zeros, mean=0.0, m2=0.0, abs_max=0.0, zeros=zeros)
        moments = moments.merge(absent)
    return HostReading(moments, exponents)


def read(reading: Reading) -> HostReading:
    """Return the reading on the host."""
    return reading.read() if isinstance(reading, device.DeviceReading) else reading
