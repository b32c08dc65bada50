"""Small transformers, written as their users write them, for tests of the theory."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class GPTBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.attend(self.norm1(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


class GPT(nn.Module):
    """Learned positions, causal attention, GELU, logits of all tokens."""

    def __init__(self, layers: int, width: int, sites: int, vocabulary: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(sites, width)
        self.blocks = nn.Sequential(*(GPTBlock(width, 4) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


class LlamaBlock(nn.Module):
    """RMSNorm by torch, rotary positions as in transformers, repeated keys, a gated MLP.

    ``normed`` puts a norm on each head of queries and keys, as Qwen and Gemma do.
    """

    def __init__(self, width: int, heads: int, groups: int, *, normed: bool = False) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        head = (lambda: nn.RMSNorm(self.size)) if normed else nn.Identity
        self.query_norm, self.key_norm = head(), head()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, groups * self.size, bias=False)
        self.value = nn.Linear(width, groups * self.size, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, 3 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(3 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        query, key = self.query_norm(self.split(self.query(h))), self.split(self.key(h))
        query, key = self.rotate(query), self.rotate(self.key_norm(key))
        key, value = self.repeat(key), self.repeat(self.split(self.value(h)))
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:2], -1, self.size).transpose(1, 2)

    def repeat(self, x: torch.Tensor) -> torch.Tensor:
        batch, groups, sites, size = x.shape
        times = self.heads // groups
        wide = x[:, :, None].expand(batch, groups, times, sites, size)
        return wide.reshape(batch, groups * times, sites, size)

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        half = self.size // 2
        angle = torch.arange(x.shape[2])[:, None] * 100.0 ** (-torch.arange(half) / half)
        angle = torch.cat([angle, angle], -1)
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * angle.cos() + turned * angle.sin()


class Llama(nn.Module):
    def __init__(self, layers: int, width: int, vocabulary: int, *, normed: bool = False) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        blocks = (LlamaBlock(width, 4, 2, normed=normed) for _ in range(layers))
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.tokens(tokens))))


class VisionTransformer(nn.Module):
    """Patches behind a class token, positions as a parameter, the head reads the class token."""

    def __init__(self, layers: int, width: int, token: float) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        # Of a given length: the prediction measures the law of the token on one draw.
        drawn = torch.randn(1, 1, width)
        self.token = nn.Parameter(token * drawn / drawn.square().mean().sqrt())
        self.positions = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
                )
                for _ in range(layers)
            )
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def make_encoder(layers: int, width: int) -> nn.Module:
    """Return encoder layers with the norm behind the branches."""
    make = nn.TransformerEncoderLayer
    return nn.Sequential(
        *(make(width, 4, 2 * width, 0.0, "gelu", batch_first=True) for _ in range(layers))
    )
