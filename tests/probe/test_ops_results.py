"""What is made of a recording knows operations from modules."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from varprobe import (
    Recording,
    analyze,
    diagnose,
    plot_depth,
    predict,
    profile,
)


class TestResults:
    """What is made of a recording knows operations from modules."""

    class Deep(nn.Module):
        """Residual blocks whose attention is masked by infinities, and a layer that holds a few."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                h = F.relu(layer(x))
                scores = (h @ h.t()).masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf)
                x = x + 1e-3 * (scores.softmax(-1) @ h)
            return x

    def test_the_verdict_is_that_of_the_modules(self) -> None:
        model, x = self.Deep(), torch.randn(8, 16)
        with_ops, without = (profile(model, x, ops=ops) for ops in (True, False))
        one, two = (diagnose(analyze(r, predict(model, x))) for r in (with_ops, without))
        assert any(r.moments.inf for r in with_ops if r.site.output.startswith("masked_fill()"))
        assert one.findings == two.findings
        assert one.checked == two.checked
        sites = [s for s in one.analysis.sites if not s.site.is_operation]
        assert [s.chi for s in sites] == pytest.approx(
            [s.chi for s in two.analysis.sites], nan_ok=True
        )

    def test_tables_list_them(self) -> None:
        recording = profile(self.Deep(), torch.randn(8, 16), ops=True)
        assert "masked_fill().4" in recording.to_markdown() + recording.to_html()
        frame = recording.to_frame().query("kind == 'softmax' and signal == 'gradient'")
        assert frame["output"].tolist() == ["softmax()", *(f"softmax().{n}" for n in range(1, 5))]

    def test_a_file_keeps_them(self, tmp_path) -> None:
        recording = profile(self.Deep(), torch.randn(8, 16), ops=True)
        recording.save(tmp_path / "recording.json")
        assert Recording.load(tmp_path / "recording.json") == recording

    def test_curves_follow_the_layers_unless_asked_otherwise(self) -> None:
        model, x = self.Deep(), torch.randn(8, 16)
        recording = profile(model, x, ops=True)
        for modules, count in (("weighted", 5), ("leaves", 5 + 5 * 8 - 1), ([""], 5 * 8)):
            display = plot_depth(recording, modules=modules)
            display.plot()
            (activation, *_) = display.curves
            assert len(activation.measured) == count, modules
        plt.close("all")
