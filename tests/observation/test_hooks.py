from __future__ import annotations

import torch

from tests.probe.scenario import mlp
from tests.probe.untouched import describe_model
from varprobe.observation.hooks import observe_modules


def test_observing_modules_sees_every_call_and_leaves_no_hook() -> None:
    model, seen = mlp(), []
    before = describe_model(model)
    x = torch.randn(5, 6)
    with observe_modules(model, lambda name, module, args, output: seen.append((name, args[0]))):
        model(x)
    model(x)
    assert [name for name, _ in seen] == ["0", "1", "2", ""]
    assert seen[0][1] is x
    assert describe_model(model) == before
