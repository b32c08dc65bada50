"""See what GPT-2's scaled residual projections do to the residual stream, over 12 layers.

Radford et al. 2019 (section 2.3) "scale the weights of residual layers at initialization by a
factor of 1/sqrt(N) where N is the number of residual layers", which are two a layer. All of them
together then add what one of them adds without it.
"""

import sys
from functools import partial

import torch
from torch import nn

import varprobe as vp

LAYERS, WIDTH, TOKENS, VOCABULARY = 12, 128, 32, 512
STD = 0.02 * (768 / WIDTH) ** 0.5  # 0.02 is made for GPT-2's width of 768
RESIDUAL = ("out_proj.weight", "linear2.weight")


def build_layer() -> nn.Module:
    """Return attention and MLP, each behind a LayerNorm and added to the residual stream."""
    return nn.TransformerEncoderLayer(
        WIDTH, 4, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


class GPT(nn.Module):
    """GPT-2 without its head, the residual projections drawn with a std of their own."""

    def __init__(self, residual_std: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(build_layer() for _ in range(LAYERS))
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=residual_std if name.endswith(RESIDUAL) else STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the residual stream behind the last layer."""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        x: torch.Tensor = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        return x


tokens = torch.randint(VOCABULARY, (4, TOKENS), generator=torch.Generator().manual_seed(0))
analyses = {}
for label, std in {"unscaled": STD, "× 1/sqrt(2L)": STD / (2 * LAYERS) ** 0.5}.items():
    recording = vp.profile(partial(GPT, std), tokens, draws=4, loss=False)
    analyses[label] = vp.analyze(recording, vp.predict(GPT(std), tokens, loss=False))

stream = ["embedding", *(f"layers.{number}" for number in range(LAYERS))]
display = vp.plot_compare(analyses, signals=["activation"], modules=stream)
print("second moment E[x²] of the residual stream: measured / predicted")
print(f"{'behind':10}", *(f"{curve.label:>19}" for curve in display.curves))
for place, name in enumerate(stream):
    pairs = [(curve.measured[place], curve.expected[place]) for curve in display.curves]
    print(f"{name:10}", *(f"{measured:10.4f} / {predicted:.4f}" for measured, predicted in pairs))

figure = sys.argv[1] if len(sys.argv) > 1 else "residual_stream.png"
display.save(figure)
print(f"\nover depth, with theory: {figure}")
