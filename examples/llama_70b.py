"""A Llama of 70 billion parameters, predicted on a laptop: nothing of it is ever allocated.

    python examples/llama_70b.py          # 80 layers, 2048 tokens: 14 s of CPU, 2 GB
    python examples/llama_70b.py --quick  # 4 of the layers

The model is built on the meta device. Its residual stream grows by the same amount in every block;
the gradient arrives at the embedding tens of thousands of times larger than it left the head, since
the first norm divides by the small standard deviation of the embedding.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from torch import nn
from torch.nn import functional as F

import varprobe as vp

WIDTH, HEADS, GROUPS, HIDDEN, VOCABULARY = 8192, 64, 8, 28672, 32000


class Attention(nn.Module):
    """Causal attention with rotary positions; eight heads share a key."""

    def __init__(self) -> None:
        super().__init__()
        self.size = WIDTH // HEADS
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, GROUPS * self.size, bias=False)
        self.value = nn.Linear(WIDTH, GROUPS * self.size, bias=False)
        self.project = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the sites gather, (batch, sites, width)."""
        query, key, value = (
            layer(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        gathered = F.scaled_dot_product_attention(
            self.rotate(query), self.rotate(key), value, is_causal=True, enable_gqa=True
        )
        projected: torch.Tensor = self.project(gathered.transpose(1, 2).flatten(2))
        return projected

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Turn pairs of features by angles that grow with the site."""
        half = self.size // 2
        frequencies = 10_000.0 ** (-torch.arange(half) / half)
        angles = torch.arange(x.shape[2])[:, None] * frequencies
        cosine, sine = angles.cos(), angles.sin()
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


class Block(nn.Module):
    """Attention and a gated MLP, each behind an RMSNorm, on a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH, eps=1e-5), nn.RMSNorm(WIDTH, eps=1e-5)
        self.attention = Attention()
        self.gate = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.up = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the stream, (batch, sites, width)."""
        x = x + self.attention(self.norm1(x))
        h = self.norm2(x)
        stream: torch.Tensor = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return stream


class Llama(nn.Module):
    """Tokens, blocks, logits."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
        self.norm = nn.RMSNorm(WIDTH, eps=1e-5)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits, (batch, sites, vocabulary)."""
        logits: torch.Tensor = self.head(self.norm(self.blocks(self.tokens(tokens))))
        return logits


def main() -> None:
    """Predict, and print stream and gradient along the depth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4 layers instead of 80")
    layers = 4 if parser.parse_args().quick else 80
    torch.set_num_threads(1)  # matrices are small: a second thread would mostly wait
    begin = time.process_time()
    prediction = vp.predict(
        lambda: Llama(layers),
        torch.empty(4, 2048, dtype=torch.long, device="meta"),
        init="normal(std=0.02, embeddings=True)",
    )
    seconds = time.process_time() - begin
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{prediction}\n{seconds:.1f} s of CPU, {memory:.1f} GB at most\n")
    print("block  stream  gradient")
    for block in sorted({0, 1, layers // 2, layers - 1}):
        stream, gradient = (
            prediction.find(vp.Site(module=f"blocks.{block}", signal=signal))
            for signal in ("activation", "gradient")
        )
        assert stream is not None
        assert gradient is not None
        print(f"{block:5d} {stream.second_moment:7.4g} {gradient.second_moment:9.3g}")


if __name__ == "__main__":
    main()
