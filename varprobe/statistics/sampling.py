"""Read a large tensor in part, and say by how much its moments may be off for it.

The memory is cut into cells of neighbouring elements. It is divided into as many stretches of equal
length as cells are to be read, and of each stretch one cell is read, at random. So every element
has the same chance whatever the shape of the tensor, and no period in it (channels, rows, heads)
can fall into step with the sample, as it does with a fixed stride. The sample is spread evenly:
what changes slowly along the memory, as from image to image, adds no error.

The error is that between neighbouring cells: half the mean square of the difference of two is their
variance within a stretch, and a little more where the stretches themselves differ, so that the
error is overstated rather than understated (Wolter 2007, Introduction to Variance Estimation,
section 8.2, estimator v2). Elements of one cell may depend on each other in any way, since only the
totals of cells are compared.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import torch

from varprobe.errors import InvalidArgumentError
from varprobe.moments import Sampling
from varprobe.statistics.device import DeviceReading
from varprobe.statistics.measure import WholeReading, measure
from varprobe.statistics.quiet import everything_off, quiet
from varprobe.statistics.reading import HostReading
from varprobe.statistics.tensors import flatten, to_dense

CELL = 64
"""Elements that are read together, four cache lines of float32. Single elements would cost a line
each; cells of 16 take twice the time, larger ones save a tenth of it and are fewer."""

MIN_CELLS = 256
"""Fewest cells. From m of them, differences of neighbours make a variance worth 2 (m - 1) / 3
squares, here 170. More is for what is unevenly spread: where one channel of hundreds holds most of
the energy, a few dozen cells meet it by chance only, and do not know what they missed."""


class SampledReading(NamedTuple):
    """The reading of tensors that were read in part, as if it were of all their elements."""

    reading: WholeReading
    skipped: int
    """Elements that were not read."""
    variances: torch.Tensor
    """Of the sum of all elements and of the sum of their squares, on the tensor's device."""

    def merge(self, other: SampledReading) -> SampledReading:
        """Return the reading of both; they were sampled independently of each other."""
        with quiet(self.variances):
            variances = self.variances + other.variances.to(self.variances.device)
        return SampledReading(
            self.reading.merge(other.reading),  # type: ignore[arg-type]
            self.skipped + other.skipped,
            variances,
        )

    def divide(self, scale: float) -> SampledReading:
        """Return the reading of the elements divided by ``scale``."""
        with quiet(self.variances):
            variances = self.variances / scale / scale
            variances[1] /= scale
            variances[1] /= scale
        return self._replace(reading=self.reading.divide(scale), variances=variances)

    def read(self) -> HostReading:
        """Return the numbers on the host."""
        return read(self.reading)

    @property
    def sampling(self) -> Sampling | None:
        """How much was read, on the host; None if it was everything."""
        if not self.skipped:
            return None
        of_sum, of_squares = self.variances.tolist()
        return Sampling(
            numel=self.read().moments.numel - self.skipped,
            sum_variance=of_sum,
            square_sum_variance=of_squares,
        )


Reading = WholeReading | SampledReading


def read(reading: Reading) -> HostReading:
    """Return the reading on the host."""
    return reading if isinstance(reading, HostReading) else reading.read()


def find_sampling(reading: Reading) -> Sampling | None:
    """Return how much was read; None if it was everything."""
    return reading.sampling if isinstance(reading, SampledReading) else None


class Sampler:
    """Measures tensors by at most so many of their elements.

    Its random numbers are its own: the user's generators stay where they are, and the same run
    gives the same numbers.

    Parameters
    ----------
    max_elements : int
        Elements to read of one tensor, at least `MIN_CELLS`.

    Raises
    ------
    InvalidArgumentError
        If there are fewer.
    """

    def __init__(self, max_elements: int) -> None:
        if max_elements < MIN_CELLS:
            raise InvalidArgumentError(
                f"max_elements is {max_elements}, and no error bar could be given for so few: "
                f"read {MIN_CELLS} elements of a tensor or more, for example 65536."
            )
        self.max_elements = max_elements
        self._cell = min(CELL, max_elements // MIN_CELLS)
        self._random = random.Random(0)
        self._generators: dict[torch.device, torch.Generator] = {}

    def measure(self, tensor: torch.Tensor, *, full: bool) -> SampledReading:
        """Measure one tensor as `varprobe.statistics.measure` does, by a sample if it is large.

        A sparse one is read whole.
        """
        if tensor.numel() <= self.max_elements:
            return self._measure_whole(tensor, full=full)
        with everything_off(tensor):
            values, implicit_zeros = to_dense(tensor)
            if implicit_zeros or values.numel() <= self.max_elements:
                return self._measure_whole(tensor, full=full)
            flat = flatten(values)
            cells = self._pick(flat)
            if cells.device.type == "mps":
                cells = cells.cpu()  # it has no float64
            variances = _estimate_variances(cells, flat.numel())
            reading = measure(cells, full=full).extrapolate(flat.numel())
        return SampledReading(reading, flat.numel() - cells.numel(), variances)

    def _measure_whole(self, tensor: torch.Tensor, *, full: bool) -> SampledReading:
        reading = measure(tensor, full=full)
        device = reading.numbers.device if isinstance(reading, DeviceReading) else "cpu"
        with everything_off(tensor):
            variances = torch.zeros(2, dtype=torch.float64, device=device)
        return SampledReading(reading, 0, variances)

    def _pick(self, flat: torch.Tensor) -> torch.Tensor:
        """Return the chosen cells of a flat tensor, (cells, elements of one)."""
        count, held = self.max_elements // self._cell, flat.numel() // self._cell
        # Where a cell's worth of elements does not fit, each end has its turn of being left out.
        start = self._random.randint(0, flat.numel() - held * self._cell)
        cells = flat[start : start + held * self._cell].view(held, self._cell)
        generator = self._find_generator(flat.device)
        where = torch.rand(count, generator=generator, dtype=torch.float64, device=flat.device)
        where += torch.arange(count, dtype=torch.float64, device=flat.device)
        return cells.index_select(0, (where * (held / count)).long().clamp_(max=held - 1))

    def _find_generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(0)
        return self._generators[device]


def _estimate_variances(cells: torch.Tensor, numel: int) -> torch.Tensor:
    numbers = cells.double()
    totals = torch.stack([numbers.sum(1), numbers.square().sum(1)])
    between = totals.diff(dim=1).square().mean(1) / 2.0
    # Of a sum over the sample, times what the sample stands for; nothing if it were everything.
    factor = numel / cells.numel()
    return between * (len(cells) * factor * factor * (1.0 - 1.0 / factor))
