from __future__ import annotations

import pytest
import torch
from torch import nn

from varprobe.errors import InvalidArgumentError, MissingRuleError
from varprobe.initializers.application import initialize, law_of
from varprobe.initializers.laws import WeightLaw


def normal_linears(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.5)
        nn.init.zeros_(module.bias)


def test_a_callable_is_called_with_every_module_children_first() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    seen: list[nn.Module] = []
    assert initialize(model, seen.append) is model
    assert seen == [model[0], model[1][0], model[1], model]


def test_a_callable_needs_no_no_grad_and_obeys_the_seed() -> None:
    model = nn.Linear(3, 3)
    initialize(model, lambda m: m.weight.normal_(), seed=1)
    first = model.weight.clone()
    initialize(model, lambda m: m.weight.normal_(), seed=1)
    assert torch.equal(model.weight, first)
    assert model.weight.requires_grad


def test_the_law_of_a_callable_is_measured_on_a_copy() -> None:
    layer = nn.Linear(300, 200)
    before = layer.weight.clone()
    law = law_of(normal_linears, layer)
    assert law is not None
    assert law.distribution == "measured"
    # N = 60,000: the standard errors are sqrt(2 / N) = 0.6 % and sqrt(24 / N) = 0.02.
    assert law.variance == pytest.approx(0.25, rel=0.04)
    assert law.kurtosis == pytest.approx(3.0, abs=0.14)
    assert abs(law.mean) < 7 * 0.5 / 245
    assert torch.equal(layer.weight, before)


def test_a_constant_is_recognised_also_where_it_stands_already() -> None:
    layer = nn.Linear(3, 3)
    assert law_of(normal_linears, layer, "bias") == WeightLaw.constant(0.0)
    nn.init.zeros_(layer.bias)
    assert law_of(normal_linears, layer, "bias") == WeightLaw.constant(0.0)


def test_what_a_callable_leaves_alone_has_no_law() -> None:
    assert law_of(normal_linears, nn.Conv2d(2, 2, 1)) is None
    assert law_of(lambda m: nn.init.normal_(m.weight), nn.Linear(3, 3), "bias") is None


def test_a_callable_has_no_law_on_meta() -> None:
    with pytest.raises(
        MissingRuleError,
        match=r"^The law of weight of Linear can only be measured, and on the meta device there "
        r"are no numbers\. Build the module on the cpu\.$",
    ):
        law_of(normal_linears, nn.Linear(3, 3, device="meta"))


def test_a_callable_takes_no_options() -> None:
    with pytest.raises(
        InvalidArgumentError,
        match=r"^An initialization that is a callable\(module\) takes no options, got std\.$",
    ):
        initialize(nn.Linear(2, 2), normal_linears, std=1.0)


def test_an_exception_of_the_callable_goes_through() -> None:
    def fail(module: nn.Module) -> None:
        raise KeyError("mine")

    layer = nn.Linear(2, 2)
    before = torch.get_rng_state()
    with pytest.raises(KeyError, match="mine"):
        initialize(layer, fail, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
