"""See how deep a random tanh network tells alike inputs from unlike ones, and that theory knows.

Schoenholz et al. 2017 (arXiv 1611.01232) could train networks up to a depth of about 6 xi_c, where
xi_c is the number of layers in which correlations get closer to their limit by a factor e. Close to
the edge of chaos, sigma_w2 = 1.76, that is deeper than the networks here.
"""

import sys

import numpy as np
import torch
from matplotlib.figure import Figure

import varprobe as vp

WIDTH, PAIRS, DEPTH, DRAWS, SIGMA_B2 = 768, 24, 100, 4, 0.05
weights = np.linspace(1.0, 3.0, 11)
networks = vp.map_phases("tanh", sigma_w2=weights, sigma_b2=[SIGMA_B2]).points


def measure_difference(seed: int) -> torch.Tensor:
    """Return by how much alike inputs are more correlated than others, (networks, layers)."""
    generator = torch.Generator().manual_seed(seed)
    sigma_w = torch.tensor(weights, dtype=torch.float32).sqrt()[:, None, None]
    inputs, noise = torch.randn(2, PAIRS, WIDTH, generator=generator)
    h, differences = torch.cat([inputs, 0.9 * inputs + 0.19**0.5 * noise])[None], []
    for _ in range(DEPTH):
        # The same draw for all networks, each at its own scale.
        weight = torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
        bias = torch.randn(WIDTH, generator=generator) * SIGMA_B2**0.5
        z = sigma_w * (h @ weight) + bias
        first, second = torch.nn.functional.normalize(z, dim=-1).chunk(2, dim=1)
        c = first @ second.mT
        alike = c.diagonal(dim1=1, dim2=2).sum(1)
        unlike = c.sum((1, 2)) - alike
        differences.append(alike / PAIRS - unlike / (PAIRS * (PAIRS - 1)))
        h = z.tanh()
    return torch.stack(differences, dim=1)


left = torch.stack([measure_difference(seed) for seed in range(DRAWS)]).mean(0).numpy()
left /= left[:, :1]

print("sigma_w2    phase   6 xi_c, theory   measured")
for network, share in zip(networks, left, strict=True):
    # The slope once the difference is small, and until it drowns in the scatter of finite width.
    start, end = np.argmax(share < 0.3), np.argmax(share < 0.03)
    slope = np.polyfit(range(start, end), np.log(share[start:end]), 1)[0] if end else np.nan
    depth = f"{-6 / slope:8.0f}" if 3 * network.xi_c < DEPTH else f"   > {DEPTH}"
    print(f"{network.sigma_w2:8.1f}  {network.phase}  {6 * network.xi_c:15.0f}   {depth}")

figure = Figure(figsize=(6.4, 4.4), layout="constrained")
axes, layers = figure.subplots(), np.arange(1, DEPTH + 1)
shown = np.clip(left.T, 1e-2, 1)  # below a hundredth there is scatter, of either sign
mesh = axes.pcolormesh(weights, layers, shown, norm="log", vmin=1e-2, vmax=1, cmap="cividis")
figure.colorbar(mesh, label="difference that is left, measured")
axes.plot(weights, [6 * network.xi_c for network in networks], "w--", label="6 $\\xi_c$, theory")
axes.set(xlabel="$\\sigma_w^2$: variance of a weight × fan_in", ylabel="layer", ylim=(1, DEPTH))
axes.set_title("alike and unlike inputs in tanh networks", loc="left")
axes.legend(facecolor="0.3", labelcolor="white", loc="upper right")
path = sys.argv[1] if len(sys.argv) > 1 else "depth_scale.png"
figure.savefig(path, dpi=160)
print(f"\nover depth: {path}")
