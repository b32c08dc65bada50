"""The Triton kernels of `varprobe.statistics.fused`; nothing else imports Triton.

How one read is enough for a variance: each lane takes one of the finite numbers that it meets as
its shift, and sums the deviations from it and their squares in float64. Let it meet k numbers x_i
of mean μ, let x be the one, and m2 = Σ(x_i - μ)². Then Σ(x_i - x)² = m2 + k (μ - x)² ≤ (1 + k) m2,
since (μ - x)² is itself a summand of m2. The subtraction that leads back to m2 magnifies roundings
k-fold at most, whatever the mean is: for a million numbers in one lane to 1e-10.

Sums keep their order from run to run; only integers are added atomically.
"""

import triton
import triton.language as tl


@triton.jit
def _join(count, mean, m2):
    # Chan's merge of all lanes at once. An empty lane has no mean: 0 · ∞² would be NaN.
    total = tl.sum(count, axis=0)
    centre = tl.sum(count * mean, axis=0) / tl.maximum(total, 1.0)
    delta = tl.where(count > 0.0, mean - centre, 0.0)
    return total, centre, tl.sum(m2 + count * delta * delta, axis=0)


@triton.jit
def sum_up(
    values,
    numbers,
    bins,
    numel,
    WIDE: tl.constexpr,
    FULL: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Write a column of ``numbers`` for each program, and add to ``bins``.

    Parameters
    ----------
    values
        The elements, ``numel`` of them, in one piece; float64 where ``WIDE``, else narrower.
    numbers
        float64 (7, programs): finite, mean, m2, abs_max, zeros, nan, inf of what a program read;
        zeros only where ``FULL``.
    bins
        Where ``FULL``: int64, the counts by biased exponent, one for each that is finite.
    """
    dtype: tl.constexpr = tl.float64 if WIDE else tl.float32
    integer: tl.constexpr = tl.int64 if WIDE else tl.int32
    mantissa: tl.constexpr = 52 if WIDE else 23
    beyond: tl.constexpr = 0x7FF if WIDE else 0xFF  # the exponent of what is not finite
    tile: tl.constexpr = ROWS * LANES

    place = tl.arange(0, ROWS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    finite = tl.zeros([LANES], tl.int32)
    zeros = tl.zeros([LANES], tl.int32)
    nan = tl.zeros([LANES], tl.int32)
    abs_max = tl.zeros([LANES], dtype)
    shift = tl.zeros([LANES], dtype)
    total = tl.zeros([LANES], tl.float64)
    squares = tl.zeros([LANES], tl.float64)
    if FULL:
        counts = tl.zeros([beyond + 1], tl.int32)
    met = 0

    for start in range(tl.program_id(0) * tile, numel, tl.num_programs(0) * tile):
        inside = start + place < numel
        x = tl.load(values + start + place, mask=inside, other=0.0).to(dtype)
        is_finite = inside & (tl.abs(x) < float("inf"))
        if FULL:
            # The bin of what is not finite takes all that is not to be counted.
            biased = (x.to(integer, bitcast=True) >> mantissa) & beyond
            biased = tl.where(is_finite & (x != 0.0), biased, beyond).to(tl.int32)
            counts += tl.histogram(tl.reshape(biased, [tile], can_reorder=True), beyond + 1)
            zeros += tl.sum((inside & (x == 0.0)).to(tl.int32), axis=0)
        met += tl.minimum(numel - start, tile)
        nan += tl.sum((x != x).to(tl.int32), axis=0)
        highest = tl.max(tl.where(is_finite, x, float("-inf")), axis=0)
        shift = tl.where((finite == 0) & (highest > float("-inf")), highest, shift)
        finite += tl.sum(is_finite.to(tl.int32), axis=0)
        x = tl.where(is_finite, x, shift[None, :])  # deviates by nothing
        deviation = x.to(tl.float64) - shift[None, :].to(tl.float64)
        total += tl.sum(deviation, axis=0)
        squares += tl.sum(deviation * deviation, axis=0)
        abs_max = tl.maximum(abs_max, tl.max(tl.abs(x), axis=0))

    count = finite.to(tl.float64)
    rest = total / tl.maximum(count, 1.0)
    # Squares beyond float64 stay infinite, where ∞ − ∞ would be NaN.
    m2 = tl.where(squares < float("inf"), squares - total * rest, squares)
    count, mean, m2 = _join(count, shift.to(tl.float64) + rest, m2)
    column = numbers + tl.program_id(0)
    row = tl.num_programs(0)
    tl.store(column, count)
    tl.store(column + row, mean)
    tl.store(column + 2 * row, m2)
    tl.store(column + 3 * row, tl.max(abs_max, axis=0).to(tl.float64))
    tl.store(column + 4 * row, tl.sum(zeros, axis=0).to(tl.float64))
    nan_count = tl.sum(nan, axis=0)
    tl.store(column + 5 * row, nan_count.to(tl.float64))
    tl.store(column + 6 * row, (met - nan_count).to(tl.float64) - count)
    if FULL:
        index = tl.arange(0, beyond + 1)
        wanted = (index < beyond) & (counts > 0)
        tl.atomic_add(bins + index, counts.to(tl.int64), mask=wanted, sem="relaxed")


@triton.jit
def join(columns, numbers, programs, LANES: tl.constexpr):
    """Merge ``columns``, float64 (7, programs) with at most ``LANES`` programs, to ``numbers``."""
    lanes = tl.arange(0, LANES)
    inside = lanes < programs
    column = columns + lanes
    count = tl.load(column, mask=inside, other=0.0)
    mean = tl.load(column + programs, mask=inside, other=0.0)
    m2 = tl.load(column + 2 * programs, mask=inside, other=0.0)
    abs_max = tl.load(column + 3 * programs, mask=inside, other=0.0)
    count, mean, m2 = _join(count, mean, m2)
    tl.store(numbers, count)
    tl.store(numbers + 1, mean)
    tl.store(numbers + 2, m2)
    tl.store(numbers + 3, tl.max(abs_max, axis=0))
    for row in range(4, 7):
        counted = tl.load(column + row * programs, mask=inside, other=0.0)
        tl.store(numbers + row, tl.sum(counted, axis=0))
