"""Moments of dense memory on a CUDA or ROCm device in one read, by two small kernels of Triton.

The first reads the tensor: some programs, each with seven numbers of its own in the end. The second
merges those; a tensor of one program does without. Nothing is copied, nothing is asked of the
device, and the same memory gives the same bits. The kernels are compiled when they are first used,
which takes a second or two; Triton keeps them on disk.

The kernels were held against the reference by Triton's interpreter, and compiled for both kinds of
device. They were not run on one: the sizes below are reckoned, not measured.
"""

from __future__ import annotations

import torch

from varprobe.statistics import fused_kernels
from varprobe.statistics.exponents import EXPONENT_RANGE, find_lowest, make_bins

WARPS = 4
"""Of a program. By the registers that a thread takes, a multiprocessor runs six such at once for
float32, three for half precision and eight for float64."""

ROW_BYTES = 16 * 32 * WARPS
"""One load for each thread, of 16 bytes, the widest there is. Each element of a row has a lane to
itself, and lanes do not speak to each other before the end."""

ROWS = 4
"""Loads that a thread has under way: 24 to 64 KiB for a multiprocessor, which is what hides the
latency of the memory. With eight, float64 runs out of registers."""

TILES = 8
"""Times ROWS that a program reads before another one is worth its end, where the lanes are merged:
that takes as long as two or three of them."""

MAX_PROGRAMS = 2048
"""Two or more for each that a large device runs at once, and few enough for one to merge them."""

MAX_ELEMENTS = 2**30
"""To one launch: places of elements stay 32-bit numbers."""


def measure(flat: torch.Tensor, *, full: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return seven float64 numbers and, if ``full``, the histogram.

    The numbers are those of `varprobe.statistics.device.DeviceReading`.

    The kernels are queued on the current stream, and whoever frees ``flat`` need not wait for them.
    The allocator gives memory back to the stream that it was allocated on. On that stream the next
    owner's work is queued behind what is queued here; and work on another stream than the tensor's
    own is ordered by whoever brought the tensor there, before they let go of it. A hook runs on
    their stream and before that, so that it is ordered with their own use of the tensor.
    """
    numel = flat.numel()
    lanes = ROW_BYTES // flat.element_size()
    programs = max(1, min(-(-numel // (TILES * ROWS * lanes)), MAX_PROGRAMS))
    columns = torch.empty(7 * programs, dtype=torch.float64, device=flat.device)
    bins = make_bins(flat.device) if full else None
    lowest = find_lowest(flat.dtype) - EXPONENT_RANGE[0]
    # Triton launches on the current device, which need not be the tensor's.
    with torch.cuda.device_of(flat):  # type: ignore[no-untyped-call]
        fused_kernels.sum_up[programs,](
            flat,
            columns,
            None if bins is None else bins[lowest:],
            numel,
            WIDE=flat.dtype is torch.float64,
            FULL=full,
            ROWS=ROWS,
            LANES=lanes,
            num_warps=WARPS,
        )
        if programs == 1:
            return columns, bins
        numbers = torch.empty(7, dtype=torch.float64, device=flat.device)
        fused_kernels.join[1,](columns, numbers, programs, LANES=MAX_PROGRAMS)
    return numbers, bins
