"""Unusual ways to run forward and backward: accumulated, repeated, nested, checkpointed."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.probe.scenario import Scenario, Twin, mlp, scenario, score, see_mlp


@scenario
def no_grad_forward() -> Scenario:
    model, x = mlp(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        with torch.no_grad():
            return model(x)

    def twin(see: Twin) -> None:
        with torch.no_grad():
            see("", see_mlp(model, x, see))

    return Scenario(model, drive, twin)


@scenario
def inference_mode_forward() -> Scenario:
    model, x = mlp(inplace=True), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        with torch.inference_mode():
            model(x)
        # What was pooled under inference mode must take more outside of it.
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        with torch.no_grad():
            see("", see_mlp(model, x, see))
        see.begin_forward()
        see.backward(score(see("", see_mlp(model, x, see))))

    return Scenario(model, drive, twin)


@scenario
def frozen_layers_input_nograd() -> Scenario:
    model, x = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)), torch.randn(5, 6)
    model[0].requires_grad_(False)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        see.backward(score(see("", see_mlp(model, x, see))))

    return Scenario(model, drive, twin)


@scenario
def grad_accumulation_3_micro() -> Scenario:
    model, batches = mlp(inplace=True), torch.randn(3, 5, 6)

    def drive() -> list[torch.Tensor]:
        outputs = [model(x) for x in batches[:0]]
        for x in batches:
            outputs.append(model(x))
            (score(outputs[-1]) / 3).backward()
        return outputs

    def twin(see: Twin) -> None:
        for x in batches:
            see.begin_forward()
            see.backward(score(see("", see_mlp(model, x, see))) / 3)

    return Scenario(model, drive, twin)


@scenario
def several_forwards_one_backward() -> Scenario:
    model, (a, b) = mlp(), torch.randn(2, 5, 6)

    def drive() -> torch.Tensor:
        loss = score(model(a)) * score(model(b))
        loss.backward()
        return loss

    def twin(see: Twin) -> None:
        first = score(see("", see_mlp(model, a, see)))
        see.begin_forward()
        see.backward(first * score(see("", see_mlp(model, b, see))))

    return Scenario(model, drive, twin)


@scenario
def backward_twice_retain_graph() -> Scenario:
    model, (a, b) = mlp(), torch.randn(2, 5, 6)

    def drive() -> torch.Tensor:
        first = model(a)
        first.sum().backward(retain_graph=True)
        second = model(b)
        score(first).backward()
        score(second).backward()
        return second

    def twin(see: Twin) -> None:
        first = see("", see_mlp(model, a, see))
        see.backward(first.sum())
        see.begin_forward()
        second = see("", see_mlp(model, b, see))
        see.backward(score(first))
        see.backward(score(second))

    return Scenario(model, drive, twin)


@scenario
def autograd_grad_wrt_input() -> Scenario:
    model, x = mlp(), torch.randn(5, 6, requires_grad=True)

    def drive() -> torch.Tensor:
        (gradient,) = torch.autograd.grad(score(model(x)), x)
        return gradient

    def twin(see: Twin) -> None:
        see.backward(score(see("", see_mlp(model, x, see))))

    return Scenario(model, drive, twin)


@scenario
def wgan_gp_double_backward() -> Scenario:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1))
    x = torch.randn(5, 6, requires_grad=True)

    def penalize(output: torch.Tensor) -> torch.Tensor:
        (gradient,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        return (gradient.norm(dim=1) - 1).square().mean()

    def drive() -> torch.Tensor:
        output = model(x)
        penalty = penalize(output)
        (output.mean() + 10 * penalty).backward()
        return penalty

    def twin(see: Twin) -> None:
        h = see("0", model[0](x))
        h = see("1", h.tanh())
        output = see("", see("2", model[2](h)))
        see.backward(output.sum())
        see.backward(output.mean() + 10 * penalize(output))

    return Scenario(model, drive, twin)


class Checkpointed(nn.Module):
    """A block that is computed again in the backward pass."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(6, 6), mlp(), nn.Linear(4, 2)
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = checkpoint(self.block, self.first(x), use_reentrant=self.reentrant)
        return self.last(h)


def _checkpointed(*, reentrant: bool) -> Scenario:
    model, (a, b) = Checkpointed(reentrant=reentrant), torch.randn(2, 5, 6)

    def drive() -> torch.Tensor:
        output = model(a)
        score(output).backward()
        (score(model(a)) * score(model(b))).backward()
        return output

    def forward(x: torch.Tensor, see: Twin) -> torch.Tensor:
        h = see("first", model.first(x))
        h = see("block", see_mlp(model.block, h, see, "block."))
        return score(see("", see("last", model.last(h))))

    def twin(see: Twin) -> None:
        see.backward(forward(a, see))
        see.begin_forward()
        first = forward(a, see)
        see.begin_forward()
        see.backward(first * forward(b, see))

    return Scenario(model, drive, twin)


@scenario
def checkpoint_nonreentrant() -> Scenario:
    return _checkpointed(reentrant=False)


@scenario
def checkpoint_reentrant() -> Scenario:
    return _checkpointed(reentrant=True)


@scenario
def autocast_bf16() -> Scenario:
    model, x = mlp(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(x)
            loss = score(output.float())
        loss.backward()
        return output

    def twin(see: Twin) -> None:
        def linear(layer: nn.Linear, h: torch.Tensor) -> torch.Tensor:
            return F.linear(h.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16())

        h = see("0", linear(model[0], x))
        h = see("1", h.relu())
        see.backward(score(see("", see("2", linear(model[2], h))).float()))

    return Scenario(model, drive, twin)


@scenario
def batchnorm_dropout_train() -> Scenario:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 4))
    x = torch.randn(5, 6)

    def drive() -> torch.Tensor:
        torch.manual_seed(3)
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        torch.manual_seed(3)
        h = see("0", model[0](x))
        centred = h - h.mean(0)
        h = see("1", centred / (centred.square().mean(0) + model[1].eps).sqrt())
        h = see("2", F.dropout(h, 0.5))
        see.backward(score(see("", see("3", model[3](h)))))

    return Scenario(model, drive, twin)


@scenario
def lstm_packed() -> Scenario:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(6, 3, batch_first=True), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            output, (hidden, _) = self.rnn(packed)
            return self.head(output.data).sum() + hidden.sum()

    model, x, lengths = Model(), torch.randn(3, 5, 6), torch.tensor([5, 3, 2])

    def drive() -> torch.Tensor:
        output = model(x, lengths)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        rnn, states, last, cells = model.rnn, [], torch.zeros(3, 3), torch.zeros(3, 3)
        hidden = last
        for step in range(5):
            # The sequences are sorted by length: those that go on come first.
            running = int((lengths > step).sum())
            gates = F.linear(x[:running, step], rnn.weight_ih_l0, rnn.bias_ih_l0) + F.linear(
                hidden[:running], rnn.weight_hh_l0, rnn.bias_hh_l0
            )
            i, f, g, o = gates.chunk(4, dim=1)
            fresh = f.sigmoid() * cells[:running] + i.sigmoid() * g.tanh()
            cells = torch.cat([fresh, cells[running:]])
            state = o.sigmoid() * fresh.tanh()
            hidden = torch.cat([state, hidden[running:]])
            states.append(state)
        data = see("rnn", torch.cat(states), output="0.data")
        # The final states leave the layer as tensors of their own: in the twin, by hand.
        final = see("rnn", hidden.unsqueeze(0) * 1.0, output="1.0")
        see("rnn", cells.unsqueeze(0) * 1.0, output="1.1")
        see.backward(score(see("", see("head", model.head(data)).sum() + final.sum())))

    # The cell state is an output that the loss does not use.
    return Scenario(model, drive, twin, unobserved=(r"^rnn\.1\.1: gradient: none arrived",))
