"""The loops of torch itself end with bitwise the same weights, watched or not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from tests.monitoring.loops import Watch, compare_runs, count_elements, list_steps


def build() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(8, 2)
    )


def test_plain_with_validation() -> None:
    def loop(watch: Watch) -> nn.Module:
        model = build()
        optimizer = torch.optim.AdamW(model.parameters())
        with watch(model):
            for _ in range(2):
                for _ in range(3):
                    optimizer.zero_grad()
                    F.mse_loss(model(torch.randn(5, 6)), torch.randn(5, 2)).backward()
                    optimizer.step()
                model.eval()
                with torch.no_grad():
                    model(torch.randn(9, 6))
                model.train()
        return model

    recording = compare_runs(loop)
    assert list_steps(recording) == list_steps(recording, "activation") == [0, 2, 4]
    assert count_elements(recording, "0") == count_elements(recording, "0", "gradient") == {40}


@pytest.mark.parametrize("by_hand", [True, False])
def test_gradient_accumulation(by_hand) -> None:
    def loop(watch: Watch) -> nn.Module:
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with watch(model) as monitor:
            for _ in range(4):
                if by_hand:
                    monitor.step()
                for _ in range(3):
                    (model(torch.randn(5, 6)).square().mean() / 3).backward()
                optimizer.step()
                optimizer.zero_grad()
        return model

    recording = compare_runs(loop)
    assert list_steps(recording) == ([0, 2] if by_hand else [0, 2, 4, 6, 8, 10])
    forwards = 3 if by_hand else 1
    assert count_elements(recording, "0") == {40 * forwards}
    assert count_elements(recording, "0", "gradient") == {40 * forwards}
    assert recording.meta["steps"] == (4 if by_hand else 12)


def test_mixed_precision() -> None:
    def loop(watch: Watch) -> nn.Module:
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        # It doubles its scale after every step, and halves it after an overflow.
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=1)
        x, y = torch.randn(5, 6), torch.randn(5, 2)
        with watch(model, grad_scale=scaler):
            for _ in range(4):
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = F.mse_loss(model(x), y)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
        return model

    recording = compare_runs(loop, every=1)
    assert list_steps(recording) == [0, 1, 2, 3]
    largest = [r.moments.abs_max for r in recording.select(signal="gradient") if r.kind == "Linear"]
    # With the scale in them they would be 2**16 times larger, and 2**3 more in the last step.
    assert max(largest) < 2


@pytest.mark.parametrize("by_hand", [True, False])
def test_closures_of_lbfgs(by_hand) -> None:
    calls = []

    def loop(watch: Watch) -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4, line_search_fn="strong_wolfe")
        x, y = torch.randn(5, 6), torch.randn(5, 2)
        calls.clear()

        def closure() -> torch.Tensor:
            calls[-1] += 1
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            return loss

        with watch(model) as monitor:
            for _ in range(3):
                if by_hand:
                    monitor.step()
                calls.append(0)
                optimizer.step(closure)
        return model

    recording = compare_runs(loop)
    assert min(calls) > 1
    if by_hand:
        assert list_steps(recording) == [0, 2]
        assert count_elements(recording, "0") == {40 * calls[0], 40 * calls[2]}
    else:
        assert recording.meta["steps"] == sum(calls)


def test_averaged_weights() -> None:
    def loop(watch: Watch) -> nn.Module:
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watch(model):
            average = None
            for _ in range(4):
                optimizer.zero_grad()
                loss = model(torch.randn(5, 6)).square().mean()
                # The copy is taken while the probe is on.
                average = average or AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
                loss.backward()
                optimizer.step()
                average.update_parameters(model)
                average(torch.randn(7, 6))
        # The copy holds hooks that do nothing; its numbers are what counts.
        averaged = build()
        averaged.load_state_dict(average.module.state_dict())
        return nn.ModuleList([model, averaged])

    recording = compare_runs(loop)
    assert list_steps(recording) == [0, 2]
    assert count_elements(recording, "0") == {40}


def test_reinforcement_learning() -> None:
    class Actor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.policy, self.value = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.distributions.Distribution, torch.Tensor]:
            h = self.body(x).tanh()
            return torch.distributions.Categorical(logits=self.policy(h)), self.value(h).squeeze(-1)

    def loop(watch: Watch) -> nn.Module:
        actor = Actor()
        optimizer = torch.optim.Adam(actor.parameters())
        with watch(actor):
            for _ in range(3):
                with torch.no_grad():
                    states = [torch.randn(1, 6)]
                    for _ in range(7):
                        action = actor(states[-1])[0].sample()
                        states.append(states[-1] + action[:, None] - 1)
                batch = torch.cat(states)
                policy, value = actor(batch)
                with torch.no_grad():
                    target = 1 + 0.9 * actor(batch.roll(-1, 0))[1]
                advantage = target - value
                actions = policy.sample()
                loss = advantage.square().mean()
                loss = loss - (advantage.detach() * policy.log_prob(actions)).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return actor

    recording = compare_runs(loop)
    assert list_steps(recording) == [0, 2]
    assert count_elements(recording, "body") == {64}
    assert recording.meta["steps"] == 3


def test_variational_autoencoder() -> None:
    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(6, 8), nn.Linear(4, 6)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            mean, log_scale = self.encoder(x).chunk(2, dim=-1)
            latent = torch.distributions.Normal(mean, log_scale.exp())
            divergence = torch.distributions.kl_divergence(latent, torch.distributions.Normal(0, 1))
            return self.decoder(latent.rsample()), divergence.sum(-1).mean()

    def loop(watch: Watch) -> nn.Module:
        model = Autoencoder()
        optimizer = torch.optim.Adam(model.parameters())
        with watch(model):
            for _ in range(4):
                x = torch.randn(5, 6)
                decoded, divergence = model(x)
                optimizer.zero_grad()
                (F.mse_loss(decoded, x) + divergence).backward()
                optimizer.step()
        return model

    assert list_steps(compare_runs(loop)) == [0, 2]


@pytest.mark.parametrize("transform", ["torch.func", "second order"])
def test_meta_learning(transform) -> None:
    def adapt(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        weights = dict(model.named_parameters())

        def compute_loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
            return F.mse_loss(torch.func.functional_call(model, weights, (x,)), y)

        if transform == "torch.func":
            gradients = torch.func.grad(compute_loss)(weights)
        else:
            found = torch.autograd.grad(
                compute_loss(weights), list(weights.values()), create_graph=True
            )
            gradients = dict(zip(weights, found, strict=True))
        return {name: weight - 0.1 * gradients[name] for name, weight in weights.items()}

    def loop(watch: Watch) -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(model.parameters())
        with watch(model) as monitor:
            for _ in range(4):
                monitor.step()
                optimizer.zero_grad()
                for _ in range(2):
                    adapted = adapt(model, torch.randn(5, 6), torch.randn(5, 2))
                    output = torch.func.functional_call(model, adapted, (torch.randn(7, 6),))
                    F.mse_loss(output, torch.randn(7, 2)).backward()
                optimizer.step()
        return model

    recording = compare_runs(loop)
    assert list_steps(recording) == [0, 2]
    # Two tasks, each with a batch to adapt to and one to be judged by.
    assert count_elements(recording, "0") == {2 * (40 + 56)}


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoints(use_reentrant) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
            self.dropout = nn.Dropout(0.2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = self.dropout(checkpoint(block, x, use_reentrant=use_reentrant).relu())
            return x

    def loop(watch: Watch) -> nn.Module:
        model = Checkpointed()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watch(model):
            for _ in range(4):
                optimizer.zero_grad()
                model(torch.randn(5, 6, requires_grad=True)).square().mean().backward()
                optimizer.step()
        return model

    recording = compare_runs(loop)
    assert list_steps(recording) == [0, 2]
    assert count_elements(recording, "blocks.1") == {30}
    assert count_elements(recording, "blocks.1", "gradient") == {30}


def test_adversaries() -> None:
    def loop(watch: Watch) -> nn.Module:
        generator = nn.Linear(3, 6)
        critic = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
        makers = torch.optim.Adam(generator.parameters()), torch.optim.Adam(critic.parameters())
        with watch(critic) as monitor:
            for _ in range(4):
                monitor.step()
                real, fake = torch.randn(5, 6), generator(torch.randn(5, 3))
                mixed = (real + fake.detach()).div(2).requires_grad_()
                (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
                penalty = (slope.norm(dim=1) - 1).square().mean()
                loss = critic(fake.detach()).mean() - critic(real).mean() + 10 * penalty
                makers[1].zero_grad()
                loss.backward()
                makers[1].step()
                makers[0].zero_grad()
                (-critic(fake).mean()).backward()
                makers[0].step()
        return nn.ModuleList([generator, critic])

    recording = compare_runs(loop)
    assert list_steps(recording) == [0, 2]
    assert count_elements(recording, "0") == {4 * 40}


def test_a_model_compiled_by_torch() -> None:
    def loop(watch: Watch) -> nn.Module:
        model = build()
        compiled = torch.compile(model, backend="aot_eager")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watch(compiled, compiled="eager"):
            for _ in range(5):
                optimizer.zero_grad()
                compiled(torch.randn(5, 6)).square().mean().backward()
                optimizer.step()
        return model

    assert list_steps(compare_runs(loop)) == [0, 2, 4]


def test_early_stopping_with_the_best_weights() -> None:
    def loop(watch: Watch) -> nn.Module:
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        best = copy.deepcopy(model.state_dict())
        with watch(model):
            for _ in range(6):
                optimizer.zero_grad()
                loss = model(torch.randn(5, 6)).square().mean()
                if loss < 0.1:
                    break
                loss.backward()
                optimizer.step()
                best = copy.deepcopy(model.state_dict())
            model.load_state_dict(best)
        return model

    assert 0 in list_steps(compare_runs(loop))
