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
from varprobe.statistics.measure import WholeReading, measure
from varprobe.statistics.quiet import quiet
from varprobe.statistics.reading import HostReading
from varprobe.statistics.tensors import flatten, to_dense

CELL = 64
"""Elements that are read together, four cache lines of float32. Single elements would cost a line
each; cells of 16 take twice the time, larger ones save a tenth of it and are fewer."""

MIN_CELLS = 256
"""Fewest cells. From m of them, differences of neighbours make a variance worth 2 (m - 1) / 3
squares, here 170. More is for what is unevenly spread: where one channel of hundreds holds most of
the energy, a few dozen cells meet it by chance only, and do not know what they missed."""


SQUARE_RANGE = (1e-15, 1e15)
"""Largest magnitudes whose squares, and sums of a cell of them, are normal float32 numbers."""


class SampledReading(NamedTuple):
    """The reading of tensors that were read in part, as if it were of all their elements."""

    reading: WholeReading
    skipped: int = 0
    """Elements that were not read."""
    variances: torch.Tensor | None = None
    """Of the sum of all elements and of the sum of their squares, on the tensor's device; None if
    nothing was skipped."""

    def merge(self, other: SampledReading) -> SampledReading:
        """Return the reading of both; they were sampled independently of each other."""
        return SampledReading(
            self.reading.merge(other.reading),  # type: ignore[arg-type]
            self.skipped + other.skipped,
            _add(self.variances, other.variances),
        )

    def divide(self, scale: float) -> SampledReading:
        """Return the reading of the elements divided by ``scale``."""
        variances = self.variances
        if variances is not None:
            with quiet(variances):
                variances = variances / scale / scale
                variances[1] /= scale
                variances[1] /= scale
        return SampledReading(self.reading.divide(scale), self.skipped, variances)

    def read(self) -> HostReading:
        """Return the numbers on the host."""
        return read(self.reading)

    @property
    def sampling(self) -> Sampling | None:
        """How much was read, on the host; None if it was everything."""
        if self.variances is None:
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
            return SampledReading(measure(tensor, full=full))
        with quiet(tensor):
            values, implicit_zeros = to_dense(tensor)
            if implicit_zeros or values.numel() <= self.max_elements:
                return SampledReading(measure(tensor, full=full))
            flat = flatten(values)
            cells = self._pick(flat)
            if cells.device.type == "mps":
                cells = cells.cpu()  # it has no float64
            reading = measure(cells, full=full)
            numbers = cells if _has_safe_squares(cells, reading) else cells.double()
            variances = _estimate_variances(numbers, flat.numel())
        skipped = flat.numel() - cells.numel()
        return SampledReading(reading.extrapolate(flat.numel()), skipped, variances)

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


def _add(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    with quiet(one):
        return one + other.to(one.device)


def _has_safe_squares(cells: torch.Tensor, reading: WholeReading) -> bool:
    # Float32 is three times as fast as float64, and an error bar needs no more than its digits.
    is_single = cells.dtype is torch.float32 and isinstance(reading, HostReading)
    return is_single and SQUARE_RANGE[0] < read(reading).abs_max < SQUARE_RANGE[1]


def _estimate_variances(cells: torch.Tensor, numel: int) -> torch.Tensor:
    totals = torch.stack([cells.sum(1), torch.linalg.vecdot(cells, cells)]).double()
    between = totals.diff(dim=1).square().mean(1) / 2.0
    # Of a sum over the sample, times what the sample stands for; nothing if it were everything.
    factor = numel / cells.numel()
    return between * (len(cells) * factor * factor * (1.0 - 1.0 / factor))
