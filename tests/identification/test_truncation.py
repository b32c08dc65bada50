from __future__ import annotations

import pytest
from scipy.stats import truncnorm

from varprobe.identification.truncation import (
    NORMAL,
    UNIFORM,
    density_at,
    find_cut,
    kurtosis_of,
    share_kept,
    variance_left,
)


@pytest.mark.parametrize("cut", [0.3, 1.0, 2.0, 3.5])
def test_moments_are_those_of_scipy(cut: float) -> None:
    law = truncnorm(-cut, cut)
    assert variance_left(cut) == pytest.approx(law.var(), rel=1e-9)
    assert kurtosis_of(cut) == pytest.approx(float(law.stats("k")) + 3, rel=1e-6)
    assert density_at(cut) == pytest.approx(law.pdf(cut), rel=1e-9)
    assert find_cut(variance_left(cut) / cut**2) == pytest.approx(cut, rel=1e-6)


def test_the_ends_of_the_family() -> None:
    assert kurtosis_of(UNIFORM) == 1.8
    assert (kurtosis_of(NORMAL), variance_left(NORMAL), share_kept(NORMAL)) == (3.0, 1.0, 1.0)
    assert find_cut(0.4) is None
