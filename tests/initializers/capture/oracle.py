"""The slow, obvious twin of a capture: build the model for real, again and again, and measure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from tests.initializers.layers import MANY_STANDARD_ERRORS
from varprobe.initializers.laws import WeightLaw


def find_misfits(
    laws: Mapping[str, WeightLaw | None], build: Callable[[], nn.Module], builds: int
) -> list[str]:
    """Return which parameters of models that are really built do not have these laws, and how."""
    seen = defaultdict(list)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        for _ in range(builds):
            for name, parameter in build().named_parameters(remove_duplicate=False):
                seen[name].append(parameter.detach().double().flatten())
    found = [f"{name} is only in one of them" for name in seen.keys() ^ laws.keys()]
    for name in seen.keys() & laws.keys():
        found += (f"{name}: {said}" for said in _misfit(laws[name], torch.cat(seen[name])))
    return found


def _misfit(law: WeightLaw | None, values: torch.Tensor) -> Iterator[str]:
    if law is None:
        yield "no law"
    elif law.variance == 0:
        if not bool((values == torch.tensor(law.mean)).all()):
            yield f"not all {law.mean}"
    else:
        # The mean of N numbers scatters by sqrt(variance / N), that of their squared deviations by
        # variance · sqrt((kurtosis - 1) / N).
        centred = values - law.mean
        offset = float(centred.mean()) / math.sqrt(law.variance / len(values))
        ratio = float(centred.square().mean()) / law.variance
        excess = (ratio - 1) / math.sqrt(max(law.kurtosis - 1, 1e-12) / len(values))
        if abs(offset) > MANY_STANDARD_ERRORS:
            yield f"the mean lies {offset:.1f} standard errors from {law}"
        if abs(excess) > MANY_STANDARD_ERRORS and abs(ratio - 1) > 1e-6:
            yield f"the variance lies {excess:.1f} standard errors from {law}"
