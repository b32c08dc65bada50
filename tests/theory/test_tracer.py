"""The model is left as it was, and what it did is seen."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import varprobe as vp
from varprobe.recording import Site
from varprobe.theory import predict_silently


def build():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(8 * 16, 4),
    )  # fmt: skip


def snapshot(model):
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for m in model.modules()
    ]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [(p.requires_grad, p.grad is None) for p in model.parameters()]
    return hooks, state, flags, torch.get_rng_state(), [m.training for m in model.modules()]


def assert_unchanged(before, after):
    assert before[0] == after[0]
    assert all(torch.equal(before[1][name], after[1][name]) for name in before[1])
    assert before[2] == after[2]
    assert torch.equal(before[3], after[3])
    assert before[4] == after[4]


@pytest.mark.parametrize("init", [None, "kaiming_normal"])
def test_nothing_of_the_model_changes(init):
    model, x = build(), torch.randn(2, 3, 6, 6)
    kept = x.clone()
    before = snapshot(model)
    vp.predict(model, x, init=init)
    assert_unchanged(before, snapshot(model))
    assert torch.equal(x, kept)
    copy.deepcopy(model)


def test_nothing_changes_either_when_the_model_rejects_its_inputs():
    model, x = build(), torch.randn(2, 5, 6, 6)
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="channels"):
        vp.predict(model, x)
    assert_unchanged(before, snapshot(model))


def test_a_model_that_looks_at_its_numbers_is_run_on_them():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

        def forward(self, x):
            h = self.norm(self.layer(x))
            return torch.relu(h) if h.sum().item() < 1e9 else h

    model, x = Looks(), torch.randn(4, 8)
    before = snapshot(model)
    prediction = vp.predict(model, x)
    assert_unchanged(before, snapshot(model))
    assert prediction.find(Site(module="")).second_moment == pytest.approx(0.5, rel=1e-3)


class Asks(nn.Module):
    """A model that asks for numbers, of what it computed or of what it was given."""

    def __init__(self, ask):
        super().__init__()
        self.layer, self.ask = nn.Linear(8, 8), ask

    def forward(self, x, mask):
        h = self.layer(x)
        return h * self.ask(h, mask)


def test_what_follows_a_look_at_a_draw_is_in_doubt():
    given = torch.randn(4, 8), torch.ones(4, dtype=torch.bool)
    prediction = vp.predict(Asks(lambda h, mask: 2 if h.sum().item() < 1e9 else 3), given)
    result = prediction.find(Site(module=""))
    # Another draw might have gone another way.
    assert (result.status, "_local_scalar_dense" in result.reason) == ("approximate", True)
    assert prediction.find(Site(module="layer")).status == "exact"
    assert prediction.find(Site(module="layer", signal="gradient")).status == "approximate"

    prediction = vp.predict(Asks(lambda h, mask: 2 if mask.all().item() else 3), given)
    assert {e.status for e in prediction if e.site.signal != "weight"} == {"exact"}


def test_no_grad_and_detach_cut_gradients():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            with torch.no_grad():
                x = self.a(x)
            return self.c(self.b(x).detach())

    model, x = Cut(), torch.randn(4, 8)
    prediction = vp.predict(model, x)
    assert prediction.find(Site(module="c", signal="gradient")) is not None
    assert prediction.find(Site(module="b", signal="gradient")) is None
    assert prediction.find(Site(module="a", signal="gradient")) is None


def test_frozen_parameters_have_no_gradient_row():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[0].requires_grad_(False)
    x = torch.randn(4, 8)
    recorded = {record.site for record in vp.profile(model, x)}
    assert {e.site for e in vp.predict(model, x)} == recorded


def test_a_module_that_is_registered_twice_keeps_its_parameters():
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    kept = layer.weight
    vp.predict(model, torch.randn(2, 8))
    assert layer.weight is kept


def test_what_a_forward_pass_leaves_in_a_module_is_taken_out():
    class Caches(nn.Module):
        def forward(self, x):
            self.seen = x
            return x * 2

    model = nn.Sequential(nn.Linear(8, 8), Caches())
    vp.predict(model, torch.randn(2, 8))
    assert not hasattr(model[1], "seen")


class Checkpointed(nn.Module):
    def __init__(self, *, use_reentrant: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.second = nn.Linear(8, 8)
        self.use_reentrant = use_reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(checkpoint(self.first, x, use_reentrant=self.use_reentrant))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpointed_model_is_predicted(use_reentrant: bool) -> None:
    prediction = vp.predict(Checkpointed(use_reentrant=use_reentrant), torch.randn(4, 8))
    assert {row.status for row in prediction if row.site.signal == "activation"} == {"exact"}


def test_numbers_that_the_model_writes_to_are_copies() -> None:
    # Spectral norm updates its vectors with out= in every forward in training mode.
    model = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    vp.predict(model, torch.randn(4, 8))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


class Prepared(nn.Module):
    """A linear layer whose input goes through a function first."""

    def __init__(self, function):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.function(x))


PREPARATIONS = {
    "a power in place": lambda x: x.abs().add(1).pow_(-0.5),
    "a mask in place": lambda x: x * (x > 0).__iand__(x < 1),
    "compressed rows": lambda x: torch.eye(4).to_sparse_csr() @ x,
    "coordinates": lambda x: torch.sparse.mm(torch.eye(4).to_sparse(), x),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("name", PREPARATIONS)
def test_what_happens_to_given_numbers_is_computed(name: str) -> None:
    model, x = Prepared(PREPARATIONS[name]), torch.randn(4, 4)
    output = vp.predict(model, x).find(Site(module="linear"))
    expected = vp.predict(model.linear, PREPARATIONS[name](x)).find(Site(module=""))
    assert output.status == "exact"
    assert output.second_moment == pytest.approx(expected.second_moment, rel=1e-6)


def test_what_is_written_through_a_view_is_not_known() -> None:
    model = Prepared(lambda x: x.clone().fill_diagonal_(0))
    prediction = predict_silently(model, torch.randn(4, 4), draws=0)
    assert prediction.find(Site(module="linear")).status == "tainted"


class Restless(nn.Module):
    """Installs a hook on its first forward, and draws numbers of Python and numpy."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.installed = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.installed:
            self.linear.register_forward_hook(lambda *_: None)
            self.installed = True
        random.random()
        np.random.rand()
        return self.linear(x)


@pytest.mark.parametrize("run", [vp.predict, vp.profile])
def test_hooks_and_random_states_of_a_restless_model_are_as_before(run) -> None:
    model = Restless()
    states = random.getstate(), np.random.get_state()[1].tolist()
    for _ in range(2):
        run(model, torch.randn(2, 4))
    assert not model.installed
    assert len(model.linear._forward_hooks) == 0
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
