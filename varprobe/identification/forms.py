"""Initializations that leave something exact behind: equal numbers, a diagonal, orthogonal rows."""

from __future__ import annotations

import math

import torch

from varprobe.identification.continuous import recognize_continuous
from varprobe.identification.numbers import Numbers
from varprobe.identification.recognized import Band, Recognized

MAX_STRAY = 2**-20
"""Share of the elements that may be 0 by themselves in a sparse matrix, beside two of them: one in
2²⁴ of torch's normal numbers is exactly 0."""

MAX_COINCIDENCE = 1e-6
"""How likely independent numbers may be to look orthogonal by chance, as those of a tiny matrix in
a coarse dtype may. Above it nothing is said."""


def recognize_form(numbers: Numbers, groups: int) -> Recognized | None:
    """Return what left an exact form in a tensor; None if nothing did.

    Parameters
    ----------
    numbers : Numbers
        Of a tensor in the shape that it was drawn in.
    groups : int
        Of the convolution that it is the weight of, else 1.
    """
    if numbers.low == numbers.high:
        if numbers.low == 0:
            return Recognized(candidates=("zeros",))
        return Recognized(candidates=("constant",))
    return (
        _recognize_identity(numbers)
        or _recognize_dirac(numbers, groups)
        or _recognize_orthogonal(numbers)
        or _recognize_sparse(numbers)
    )


def _recognize_identity(numbers: Numbers) -> Recognized | None:
    values = numbers.values
    if values.dim() != 2 or min(values.shape) < 2 or numbers.nonzeros != min(values.shape):
        return None
    diagonal = values.diagonal()
    scale = diagonal[0].item()
    if not scale or not bool((diagonal == scale).all()):
        return None
    return Recognized(candidates=("identity",), note="" if scale == 1 else f"times {scale:.6g}")


def _recognize_dirac(numbers: Numbers, groups: int) -> Recognized | None:
    values = numbers.values
    if values.dim() not in (3, 4, 5) or numbers.nonzeros > values.shape[0]:
        return None
    for parts in {1, groups}:
        if values.shape[0] % parts == 0:
            dirac = torch.nn.init.dirac_(torch.empty_like(values), parts)
            if torch.equal(values, dirac):
                return Recognized(candidates=("dirac",))
    return None


def _recognize_orthogonal(numbers: Numbers) -> Recognized | None:
    """Return an orthogonal form if vectors along the longer side are orthonormal up to a gain."""
    vectors = numbers.vectors
    if len(vectors) < 2:
        return None
    longer = vectors.shape[1]
    tolerance = _find_tolerance(longer, numbers.precision)
    energy = _find_energy(vectors, tolerance)
    if energy is None:
        return None
    return Recognized(
        candidates=("orthogonal",),
        bands=(Band(low=energy, high=energy, of="gain²").widen(2 * tolerance),),
        kurtosis=3 * longer / (longer + 2),
    )


def _find_tolerance(longer: int, precision: float) -> float:
    """Return what products of orthonormal vectors may be off, in units of 1 / sqrt(longer).

    The first term is the error of a QR decomposition in float32, the second that of rounding the
    elements to a coarser dtype, both several times what is measured.
    """
    return 64 * torch.finfo(torch.float32).eps * math.sqrt(longer) + 4 * precision


def _find_energy(vectors: torch.Tensor, tolerance: float) -> float | None:
    """Return the squared norm that all vectors have in common if they are orthogonal, else None."""
    count, length = vectors.shape
    gram = vectors @ vectors.mT
    energies = gram.diagonal()
    energy = energies.mean().item()
    if not energy:
        return None
    pairs = count * (count - 1) // 2
    cross = (gram.square().sum() - energies.square().sum()).clamp(min=0).item() / (2 * pairs)
    spread = (energies.max() - energies.min()).item()
    # Products of independent vectors have the standard deviation energy / sqrt(length). That the
    # root mean square of n of them is below t of it has (Chernoff) at most the probability
    # (e t²)^(n/2).
    stray = math.sqrt(cross * length) / energy
    coincidence = (math.e * tolerance**2) ** (pairs / 2)
    if stray > tolerance or spread > tolerance * energy or coincidence > MAX_COINCIDENCE:
        return None
    return energy


def _recognize_sparse(numbers: Numbers) -> Recognized | None:
    """Return a sparse form if all columns have as many zeros, strays aside, in a normal sample."""
    values = numbers.values
    if values.dim() != 2 or values.shape[1] < 2 or numbers.nonzeros == numbers.count:
        return None
    zeros = (values == 0).sum(dim=0)
    rest = values[values != 0]
    common = int(zeros.min())
    strays = int(zeros.sum()) - common * values.shape[1]
    if not common or strays > 2 + MAX_STRAY * numbers.count or bool((rest == rest[0]).all()):
        return None
    drawn = recognize_continuous(Numbers(rest))
    if "normal" not in drawn.candidates:
        return None
    return Recognized(
        candidates=("sparse",),
        bands=drawn.bands,
        kurtosis=drawn.kurtosis,
        p_value=drawn.p_value,
        note=f"{common} of {values.shape[0]} in each column are 0; laws are of the rest",
    )
