"""Write kernels.json: exact infinite-width kernels, by mpmath alone.

    python tests/theory/data/make_kernels.py        # a minute

For two inputs the kernel K = [k11, k12, k22] of the pre-activations of every layer, and for a
convolutional net that of all pairs of pixels of its last one. Nothing of varprobe is used: closed
forms of Cho and Saul 2009 (rectifiers) and Williams 1998 (erf), the trapezoidal rule for the rest,
whose error falls exponentially for functions that are analytic near the real line.
"""

import json
from itertools import product
from pathlib import Path

import mpmath as mp

mp.mp.dps = 25

STEP, REACH = mp.mpf(1) / 8, 10

INPUTS = [[1.25, -0.5, 0.75, 1.0], [0.25, 1.0, -0.5, 0.5]]

LAYERS = 10

EPS = mp.mpf(10) ** -5
"""Of LayerNorm."""

BIAS = mp.mpf(1) / 16
"""Variance of the biases of the convolutions."""

# name: activation, its argument, σ_w², σ_b²
MLPS = {
    "relu": ("rectifier", 0.0, 2.0, 0.0),
    "relu with biases": ("rectifier", 0.0, 1.75, 0.125),
    "leaky relu": ("rectifier", 0.25, 1.875, 0.0625),
    "erf": ("erf", None, 2.25, 0.125),
    "gelu": ("gelu", None, 2.25, 0.125),
    "tanh": ("tanh", None, 1.75, 0.0625),
}


def rectify(a, k11, k12, k22):
    """Return E φ(u) φ(v), φ(x) = x for x > 0 and a x below."""
    norm = mp.sqrt(k11 * k22)
    angle = mp.acos(max(-1, min(1, k12 / norm)))
    arc = norm * (mp.sin(angle) + (mp.pi - angle) * mp.cos(angle)) / (2 * mp.pi)
    return (1 - a) ** 2 * arc + a * k12


def map_erf(k11, k12, k22):
    """Return E erf(u) erf(v)."""
    return 2 / mp.pi * mp.asin(2 * k12 / mp.sqrt((1 + 2 * k11) * (1 + 2 * k22)))


def integrate(function, k11, k12, k22):
    """Return E f(u) f(v) by the trapezoidal rule in two independent normals."""
    count = int(REACH / STEP)
    nodes = [i * STEP for i in range(-count, count + 1)]
    weights = [STEP * mp.npdf(z) for z in nodes]
    first = mp.sqrt(k11)
    slope, rest = k12 / first, mp.sqrt(max(0, k22 - k12**2 / k11))
    total = mp.mpf(0)
    for z, weight in zip(nodes, weights, strict=True):
        inner = mp.mpf(0)
        if rest < mp.mpf(10) ** -12:
            inner = function(slope * z)
        else:
            for y, other in zip(nodes, weights, strict=True):
                inner += other * function(slope * z + rest * y)
        total += weight * function(first * z) * inner
    return total


def gelu(x):
    """Return x Φ(x)."""
    return x * mp.ncdf(x)


def expect(kind, argument, k11, k12, k22):
    """Return E φ(u) φ(v) of the named activation."""
    if kind == "rectifier":
        return rectify(mp.mpf(argument), k11, k12, k22)
    if kind == "erf":
        return map_erf(k11, k12, k22)
    return integrate({"gelu": gelu, "tanh": mp.tanh}[kind], k11, k12, k22)


def expect_all(kind, argument, kernel):
    """Return the kernel of the activations."""
    k11, k12, k22 = kernel
    return [
        expect(kind, argument, k11, k11, k11),
        expect(kind, argument, k11, k12, k22),
        expect(kind, argument, k22, k22, k22),
    ]


def start(weight, bias):
    """Return the kernel of the first layer."""
    first, second = ([mp.mpf(x) for x in row] for row in INPUTS)
    pairs = (first, first), (first, second), (second, second)
    return [
        weight * sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + bias for x, y in pairs
    ]


def run_mlp(kind, argument, weight, bias):
    """Return the kernels of all layers."""
    weight, bias = mp.mpf(weight), mp.mpf(bias)
    kernels = [start(weight, bias)]
    while len(kernels) < LAYERS:
        kernels.append([weight * k + bias for k in expect_all(kind, argument, kernels[-1])])
    return kernels


def run_layer_norm(blocks=4, weight=2, eps=EPS):
    """Return the stream of x + V gelu(W layer_norm(x)), W and V of variance weight / width."""
    kernels = [start(mp.mpf(1), mp.mpf(0))]
    for _ in range(blocks):
        k11, k12, k22 = kernels[-1]
        scales = 1 / mp.sqrt(k11 + eps), 1 / mp.sqrt(k22 + eps)
        normed = [
            k11 * scales[0] ** 2,
            k12 * scales[0] * scales[1],
            k22 * scales[1] ** 2,
        ]
        branch = expect_all("gelu", None, [weight * k for k in normed])
        kernels.append([k + weight * b for k, b in zip(kernels[-1], branch, strict=True)])
    return kernels


def run_conv(side=4, layers=4, weight=2, bias=BIAS):
    """Return the kernel of all pairs of (sample, pixel) of 3 x 3 convolutions, zeros outside."""
    cells = list(product(range(2), range(side), range(side)))
    # Three channels of numbers that look random and are none.
    pixels = {
        (s, i, j): [mp.mpf((7 * s + 5 * i + 3 * j + 11 * c + i * j * (s + 1)) % 13 - 6) / 4
                    for c in range(3)]
        for s, i, j in cells
    }  # fmt: skip
    kernel = {
        (p, q): sum(a * b for a, b in zip(pixels[p], pixels[q], strict=True)) / 3
        for p, q in product(cells, cells)
    }
    taps = list(product((-1, 0, 1), (-1, 0, 1)))

    def convolve(kernel):
        return {
            (p, q): bias
            + mp.mpf(weight)
            / 9
            * sum(
                kernel.get(((p[0], p[1] + i, p[2] + j), (q[0], q[1] + i, q[2] + j)), 0)
                for i, j in taps
            )
            for p, q in product(cells, cells)
        }

    kernel = convolve(kernel)
    for _ in range(layers - 1):
        kernel = convolve(
            {(p, q): rectify(0, kernel[p, p], k, kernel[q, q]) for (p, q), k in kernel.items()}
        )
    return {
        "pixels": [[[[float(pixels[s, i, j][c]) for j in range(side)] for i in range(side)]
                    for c in range(3)] for s in range(2)],
        "kernel": [[shorten(kernel[p, q]) for q in cells] for p in cells],
    }  # fmt: skip


def shorten(number):
    """Return a number with the twelve digits that a test can use."""
    return float(mp.nstr(number, 12))


def main():
    """Write the file."""
    found = {
        "inputs": INPUTS,
        "mlp": {
            name: {
                "sigma_w2": case[2],
                "sigma_b2": case[3],
                "kernels": [[shorten(k) for k in row] for row in run_mlp(*case)],
            }
            for name, case in MLPS.items()
        },
        "layer_norm": [[shorten(k) for k in row] for row in run_layer_norm()],
        "conv": run_conv(),
    }
    path = Path(__file__).with_name("kernels.json")
    path.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
