"""Recurrent layers by rule, against Monte-Carlo of the same module."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import nn

import varprobe as vp
from varprobe.recording import Site

DRAWS = 48


class Reader(nn.Module):
    """A recurrent layer and a head on all of its steps, or on the last one."""

    def __init__(self, kind, inputs, width, *, last=False, **options):
        super().__init__()
        self.layer = kind(inputs, width, **options)
        directions = 2 if self.layer.bidirectional else 1
        self.head = nn.Linear((self.layer.proj_size or width) * directions, 8)
        self.last = last

    def forward(self, x):
        output = self.layer(x)[0]
        if self.last:
            output = output[:, -1] if self.layer.batch_first else output[-1]
        return self.head(output)


class Translator(nn.Module):
    """A layer that begins where another has ended."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.LSTM(24, 48, num_layers=2, batch_first=True)
        self.decoder = nn.LSTM(24, 48, num_layers=2, batch_first=True)

    def forward(self, x):
        _, state = self.encoder(x[:, :4])
        return self.decoder(x[:, 4:], state)[0]


class Classifier(nn.Module):
    """Time first, and the last states of both directions side by side."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(20, 32)
        self.layer = nn.GRU(32, 48, bidirectional=True)
        self.head = nn.Linear(96, 8)

    def forward(self, tokens):
        _, last = self.layer(self.tokens(tokens))
        return self.head(torch.cat([last[-2], last[-1]], 1))


# A batch of more than 256 positions has samples that are not told apart.
CASES = {
    "lstm": (partial(Reader, nn.LSTM, 32, 48, batch_first=True), (48, 6, 32)),
    "gru": (partial(Reader, nn.GRU, 32, 48, batch_first=True, last=True), (6, 8, 32)),
    "tanh, two layers": (partial(Reader, nn.RNN, 32, 48, num_layers=2), (5, 6, 32)),
    "relu": (partial(Reader, nn.RNN, 32, 64, nonlinearity="relu", last=True), (5, 64, 32)),
    "both directions, dropout": (
        partial(Reader, nn.GRU, 24, 48, num_layers=2, bidirectional=True, dropout=0.3),
        (5, 8, 24),
    ),
    "begins where another ended": (Translator, (6, 8, 24)),
}


def compare(build, inputs, draws):
    """Yield each row of the prediction with the second moments that draws of the weights have."""
    prediction = vp.predict(build, inputs, init="default")
    measured = defaultdict(list)
    for record in vp.profile(build, inputs, init="default", draws=draws, seed=1, stats="moments"):
        measured[record.site].append(record.moments.second_moment)
    assert set(measured) == {row.site for row in prediction}
    for row in prediction:
        if row.site.signal != "weight":
            yield row, np.array(measured[row.site])


def check(build, inputs, draws):
    """Hold every row and its error bar to Monte-Carlo, and return how many rows there were."""
    covered = []
    for row, found in compare(build, inputs, draws):
        assert "draws" not in row.reason, row
        noise = float(found.std(ddof=1)) / math.sqrt(draws) / float(found.mean())
        # 5 standard errors of the largest of some dozens of rows; beside them corrections of order
        # 1/width, which add up over the steps and layers on the way back.
        allowed = 0.02 if row.site.signal == "activation" else 0.08
        assert abs(row.second_moment / found.mean() - 1) < allowed + 5 * noise, (row, noise)
        centre = math.log(row.second_moment) - row.log_std**2 / 2
        covered.append(np.mean(np.abs(np.log(found) - centre) < 1.96 * row.log_std))
    # The same draws are in all rows, which go together: 48 of them leave 0.03 and more.
    assert np.mean(covered) > 0.8
    return len(covered)


@pytest.mark.parametrize("name", CASES)
def test_moments_agree_with_monte_carlo(name):
    build, shape = CASES[name]
    torch.manual_seed(0)
    assert check(build, torch.randn(shape), DRAWS) > 9


def test_time_first_and_last_states():
    torch.manual_seed(0)
    assert check(Classifier, torch.randint(0, 20, (6, 5)), DRAWS) > 9


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projected_state():
    torch.manual_seed(0)
    build = partial(Reader, nn.LSTM, 24, 64, proj_size=32, bidirectional=True, batch_first=True)
    check(build, torch.randn(6, 5, 24), DRAWS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections", "ignore:dropout option")
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from([nn.LSTM, nn.GRU, nn.RNN]),
    inputs=st.integers(3, 80),
    width=st.integers(64, 96),
    layers=st.integers(1, 3),
    both=st.booleans(),
    first=st.booleans(),
    bias=st.booleans(),
    last=st.booleans(),
    batch=st.sampled_from([1, 3, 40]),
    steps=st.integers(1, 15),
)
def test_any_shape(kind, inputs, width, layers, both, first, bias, last, batch, steps):
    shape = (batch, steps, inputs) if first else (steps, batch, inputs)
    options = {"num_layers": layers, "bidirectional": both, "batch_first": first, "bias": bias}
    torch.manual_seed(0)
    for row, found in compare(
        partial(Reader, kind, inputs, width, last=last, **options), torch.randn(shape), 96
    ):
        if float(found.mean()) == 0.0:
            # One step from the zero state: nothing meets the recurrent matrix.
            assert row.second_moment < 1e-12
            continue
        noise = float(found.std(ddof=1)) / math.sqrt(len(found)) / float(found.mean())
        allowed = 0.02 if row.site.signal == "activation" else 0.1
        assert abs(row.second_moment / found.mean() - 1) < allowed + 5 * noise, (row, noise)


def predict_lstm(x, **options):
    torch.manual_seed(0)
    model = nn.LSTM(16, 32, batch_first=True)
    return vp.predict(model, x, init="default", **options)


def test_the_same_numbers_whatever_the_global_generator_does():
    x = torch.randn(4, 3, 16)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = vp.predict(lambda: nn.GRU(16, 32), x, init="default")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = vp.predict(lambda: nn.GRU(16, 32), x, init="default")
    assert first.expectations == second.expectations


def test_no_batch_and_one_step_of_it():
    alone = predict_lstm(torch.ones(3, 16)).find(Site(module="", output="0"))
    batch = predict_lstm(torch.ones(1, 3, 16)).find(Site(module="", output="0"))
    assert alone.second_moment == pytest.approx(batch.second_moment, rel=1e-6)
    assert alone.status == "approximate"
    assert "particles" in alone.reason


def test_a_double_precision_default_changes_nothing():
    x = torch.ones(2, 3, 16)
    expected = predict_lstm(x).expectations
    torch.set_default_dtype(torch.float64)
    try:
        found = predict_lstm(x.double()).expectations
    finally:
        torch.set_default_dtype(torch.float32)
    for row, other in zip(expected, found, strict=True):
        assert row.second_moment == pytest.approx(other.second_moment, rel=1e-4)


def forget_nothing():
    model = nn.LSTM(16, 32)
    nn.init.ones_(model.bias_ih_l0)
    return model


class Begun(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(16, 32)

    def forward(self, x):
        return self.layer(x, torch.ones(1, x.shape[1], 32))[0]


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(16, 32)

    def forward(self, x):
        lengths = torch.full((x.shape[1],), x.shape[0])
        return self.layer(nn.utils.rnn.pack_padded_sequence(x, lengths))[1]


@pytest.mark.parametrize(
    ("build", "reason"),
    [(forget_nothing, "has a mean"), (Begun, "numbers of its own"), (Packed, "aten")],
)
def test_what_the_rule_does_not_know_is_left_to_draws(build, reason):
    prediction = vp.predict(build(), torch.randn(4, 3, 16))
    rows = [row for row in prediction if "draws" in row.reason]
    assert any(reason in row.reason for row in rows)
    assert all(row.status == "approximate" for row in rows)
    assert prediction.unsupported


def test_a_layer_that_reads_itself_says_so():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.GRU(32, 32)

        def forward(self, x):
            return self.layer(self.layer(x)[0])[0]

    prediction = vp.predict(Twice, torch.randn(4, 3, 32))
    second = prediction.find(Site(module="layer", call=1, output="0"))
    assert second.status == "approximate"
    assert "more than once" in second.reason
