"""Hooks that leave nothing behind, and do nothing where they were not put."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import nn

from tests.probe.scenario import mlp
from tests.probe.untouched import describe_model
from varprobe.observation.hooks import Hook, observe_modules


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


def test_a_hook_is_inert_wherever_it_was_not_put() -> None:
    module, other, seen = nn.Identity(), nn.Identity(), []
    hook = Hook(lambda *given: seen.append(given), module)
    for inert in (copy.deepcopy(hook), pickle.loads(pickle.dumps(hook))):
        inert(module, (1,), 2)
    hook(other, (1,), 2)
    assert seen == []
    hook(module, (1,), 2)
    assert seen == [(module, (1,), 2)]
    hook.disarm()
    hook(module, (1,), 2)
    hook(module, (1,))
    assert len(seen) == 1
