"""Look at every activation and gradient of a model of your own.

Takes the place of print statements in ``forward``: the recording is a tidy pandas frame, is saved
as one file, and lists what could not be seen.
"""

import sys

import torch
from torch import nn

import varprobe as vp


class Net(nn.Module):
    """A few residual blocks without normalization, and a head that nobody calls."""

    def __init__(self, blocks: int = 6, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
        self.head = nn.Linear(width, 10)
        self.auxiliary = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits, in a dictionary as many models do."""
        x = self.stem(images)
        for block in self.blocks:
            x = x + block(x.relu())
        return {"logits": self.head(x.mean((2, 3)))}


torch.manual_seed(0)
model, images = Net(), torch.randn(8, 3, 16, 16)

# One forward and one backward pass; the model is as before afterwards.
recording = vp.profile(model, images)
print(recording)

# One row for each tensor; here the second moments, E[x²] and E[g²], in order of execution.
frame = recording.to_frame().query("signal in ['activation', 'gradient']")
rows = ["depth", "module", "output", "kind"]
table = frame.pivot(index=rows, columns="signal", values="second_moment")
print(table.to_string(float_format="{:.2e}".format))

for missing in recording.unobserved:
    print("not seen:", missing)

# Everything but the weights: it can be looked at later, elsewhere, without the model.
path = sys.argv[1] if len(sys.argv) > 1 else "recording.json"
recording.save(path)
print("saved:", vp.Recording.load(path))
