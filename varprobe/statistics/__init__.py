"""From a tensor to its Moments: one interface, several implementations.

`measure` picks the implementation: a fast path for dense floating-point tensors on the CPU, a path
without host synchronisation for other devices. Both are held against `reference.measure`, which is
slow and obvious. `Sampler` reads large tensors in part. Layouts that have no dense numbers raise
`Unmeasurable` with the reason.
"""

from varprobe.statistics.linear_input import measure_linear_input
from varprobe.statistics.measure import measure
from varprobe.statistics.rows import count_distinct_rows
from varprobe.statistics.sampling import Reading, Sampler, find_sampling, read
from varprobe.statistics.tensors import Unmeasurable, shape_of

__all__ = [
    "Reading",
    "Sampler",
    "Unmeasurable",
    "count_distinct_rows",
    "find_sampling",
    "measure",
    "measure_linear_input",
    "read",
    "shape_of",
]
