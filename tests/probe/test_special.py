"""Situations beyond the table: transforms, fast paths, copies, threads, several probes."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from tests.probe.scenario import mlp, score
from tests.probe.untouched import describe_model, describe_run
from tests.reference.moments import measure
from varprobe import Moments, Probe, Recording
from varprobe.recording import UNKNOWN_CALL

ALL = ("activation", "gradient", "weight", "weight_gradient")


def read(recording: Recording, signal: str) -> dict[tuple[str, int, str, int], Moments]:
    return {
        (r.site.module, r.site.call, r.site.output, r.backward): r.moments
        for r in recording.select(signal=signal)
    }


def assert_same_numbers(first: Recording, second: Recording, signal: str) -> None:
    one, two = read(first, signal), read(second, signal)
    assert one.keys() == two.keys()
    for key in one:
        close = pytest.approx(one[key].second_moment, rel=1e-5)
        assert two[key].second_moment == close, key


class TestCheckpointing:
    class Stack(nn.Module):
        """Layers whose blocks are computed again, each holding another that is."""

        def __init__(self, mode: bool | None) -> None:
            super().__init__()
            self.mode = mode
            self.outer, self.inner = nn.Linear(6, 6), nn.Linear(6, 6)
            self.last = nn.Linear(6, 6)

        def run(self, function, x: torch.Tensor) -> torch.Tensor:
            if self.mode is None:
                return function(x)
            return checkpoint(function, x, use_reentrant=self.mode)

        def nested(self, x: torch.Tensor) -> torch.Tensor:
            return self.outer(x) + self.run(lambda h: self.inner(h).tanh(), x)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.run(self.nested, x))

    @pytest.mark.parametrize("mode", [True, False])
    def test_nested_checkpoints_give_the_numbers_of_none(self, mode) -> None:
        recordings = []
        for used in (None, mode):
            torch.manual_seed(0)
            model, x = self.Stack(used), torch.randn(5, 6, requires_grad=True)
            with Probe(model, signals=ALL) as probe:
                score(model(x)).backward()
                score(model(x)).backward()
            recordings.append(probe.recording)
        for signal in ALL:
            assert_same_numbers(*recordings, signal)
        assert recordings[0].meta["recomputed_calls"] == 0
        assert recordings[1].meta["recomputed_calls"] > 0

    def test_of_several_reentrant_calls_it_says_that_it_cannot_tell_which(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell = nn.Linear(6, 6)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return checkpoint(lambda h: self.cell(self.cell(h).tanh()), x, use_reentrant=True)

        model, x = Twice(), torch.randn(5, 6, requires_grad=True)
        with Probe(model) as probe:
            score(model(x)).backward()
        gradients = read(probe.recording, "gradient")
        activations = read(probe.recording, "activation")
        assert [key[1] for key in activations if key[0] == "cell"] == [0, 1]
        (pooled,) = (m for key, m in gradients.items() if key[0] == "cell")
        assert pooled.numel == 60
        (record,) = (r for r in probe.recording if r.site.call == UNKNOWN_CALL)
        assert str(record.site) == "cell@?"
        assert record.depth == 0

    def test_calls_without_a_graph_are_not_taken_for_checkpoints(self) -> None:
        model, x = self.Stack(False), torch.randn(5, 6, requires_grad=True)
        with Probe(model) as probe:
            with torch.no_grad():
                model(x)
            score(model(x)).backward()
        assert {m.numel for m in read(probe.recording, "gradient").values()} == {30}


class TestLeafOutputs:
    class Prompt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.mix = nn.Parameter(torch.randn(3, 6)), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.mix(x + self.tokens), self.tokens

    def test_hooks_do_not_pile_up_on_a_parameter(self) -> None:
        model = self.Prompt()
        expected = []
        with Probe(model, signals=ALL) as probe:
            for _ in range(4):
                x = torch.randn(3, 6)
                output, tokens = model(x)
                loss = score(output) + tokens.sum()
                expected += torch.autograd.grad(loss, [model.tokens], retain_graph=True)[:1]
                loss.backward()
                assert len(model.tokens._backward_hooks) == 2
        gradients = read(probe.recording, "gradient")
        # grad() and backward() are two passes that both reach the parameter.
        for number in (0, 1):
            found = gradients["", 0, "1", number]
            assert found.numel == 4 * 18
            assert found.second_moment == pytest.approx(measure(expected).second_moment, rel=1e-5)
        assert not model.tokens._backward_hooks

    def test_inputs_that_an_identity_returns_are_told_apart(self) -> None:
        model, batches = nn.Sequential(nn.Identity()), torch.randn(2, 5, 6)
        leaves = [batch.clone().requires_grad_() for batch in batches]
        with Probe(model) as probe:
            loss = sum(score(model(leaf)) for leaf in leaves)
            loss.backward()
        exact = measure([leaf.grad for leaf in leaves])
        found = read(probe.recording, "gradient")["0", 0, "", 0]
        assert found.numel == 60
        assert found.second_moment == pytest.approx(exact.second_moment, rel=1e-6)


class TestTransforms:
    @pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
    @pytest.mark.parametrize("transform", ["grad", "vmap", "jvp", "jacrev", "jacfwd", "hessian"])
    def test_the_run_is_the_bare_one_and_activations_are_recorded(self, transform) -> None:
        model, x = nn.Sequential(nn.Linear(6, 6), nn.Tanh()), torch.randn(6)

        def drive() -> object:
            if transform == "vmap":
                return torch.vmap(model)(x.repeat(5, 1))
            if transform == "jvp":
                return torch.func.jvp(model, (x,), (torch.ones(6),))
            function = getattr(torch.func, transform)
            return function(lambda v: score(model(v)))(x)

        expected = describe_run(model, drive)
        with Probe(model, stats="full", signals=ALL) as probe:
            found = drive()
        assert describe_run(model, lambda: found) == expected
        activations = read(probe.recording, "activation")
        with torch.no_grad():
            exact = measure(model[0](x)).second_moment
        assert activations["0", 0, "", 0].second_moment == pytest.approx(exact, rel=1e-5)

    def test_functional_call_and_per_sample_gradients(self) -> None:
        model, x = mlp(), torch.randn(5, 6)
        parameters = {name: p.detach() for name, p in model.named_parameters()}

        def loss(given: dict[str, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
            return score(torch.func.functional_call(model, given, sample))

        per_sample = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))
        bare = per_sample(parameters, x)
        with Probe(model) as probe:
            probed = per_sample(parameters, x)
        assert all(torch.equal(bare[name], probed[name]) for name in bare)
        assert read(probe.recording, "activation")["0", 0, "", 0].numel == 30

    def test_a_vectorized_jacobian_through_the_recorded_graph(self) -> None:
        model, x = mlp(), torch.randn(6)
        bare = torch.autograd.functional.jacobian(model, x, vectorize=True)
        with Probe(model) as probe:
            probed = torch.autograd.functional.jacobian(model, x, vectorize=True)
        assert torch.equal(bare, probed)
        lines = [str(line) for line in probe.recording.unobserved]
        assert any(line.startswith("0: gradient: a Tensor of layout") for line in lines)


class TestTransformers:
    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("masked", [True, False])
    @pytest.mark.parametrize("grad", [True, False])
    def test_the_encoder_computes_the_same(self, training, masked, grad) -> None:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        model = nn.TransformerEncoder(layer, 2).train(training)
        x, mask = torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
        mask[0, 3:] = mask[1, 4:] = True

        def drive() -> torch.Tensor:
            torch.manual_seed(3)
            with torch.set_grad_enabled(grad):
                return model(x, src_key_padding_mask=mask if masked else None)

        bare = drive()
        with Probe(model, stats="full") as probe:
            probed = drive()
        if training or grad:
            assert torch.equal(bare, probed)
        else:
            # With hooks the layers leave torch's fast path, which rounds in another order.
            assert torch.allclose(bare, probed, atol=1e-6)
        names = {r.site.module for r in probe.recording.select(signal="activation")}
        assert {"", "layers.0", "layers.1.self_attn", "layers.1.linear2"} <= names

    def test_attention_to_oneself_stays_that(self) -> None:
        seen = []

        class Watch(nn.MultiheadAttention):
            def forward(self, query, key, value, **options):
                seen.append(query is key is value)
                return super().forward(query, key, value, **options)

        model, x = Watch(8, 2), torch.randn(5, 3, 8)
        with Probe(model) as probe:
            output, weights = model(x, x, x)
            (output.sum() + weights.sum()).backward()
        assert seen == [True]
        assert {key[2] for key in read(probe.recording, "gradient")} == {"0", "1"}


class TestCopies:
    """Copies made while a probe is on are silent, and the probe does not hear them."""

    @pytest.mark.parametrize(
        "duplicate",
        [
            copy.deepcopy,
            lambda model: pickle.loads(pickle.dumps(model)),
            lambda model: AveragedModel(model).module,
        ],
    )
    def test_a_copy_is_inert(self, duplicate) -> None:
        model, x = mlp(), torch.randn(5, 6)
        with Probe(model) as probe:
            twin = duplicate(model)
            score(model(x)).backward()
            recording = probe.recording
            score(twin(x)).backward()
            assert probe.recording == recording
        assert torch.equal(twin(x), model(x))

    def test_a_shallow_copy_is_inert_too(self) -> None:
        model = nn.Linear(6, 6)
        with Probe(model) as probe:
            model(torch.randn(5, 6))
            copy.copy(model)(torch.randn(5, 6))
        assert read(probe.recording, "activation")["", 0, "", 0].numel == 30

    def test_a_model_saved_whole_can_be_loaded(self) -> None:
        model, file = mlp(), io.BytesIO()
        with Probe(model):
            torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        assert torch.equal(loaded(torch.ones(1, 6)), model(torch.ones(1, 6)))


class TestConcurrency:
    def test_threads_have_their_own_calls(self) -> None:
        class Slow(nn.Module):
            """Two threads are inside the same forward at the same time."""

            def __init__(self) -> None:
                super().__init__()
                self.cell, self.barrier = nn.Linear(6, 6), threading.Barrier(2)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                for _ in range(3):
                    self.barrier.wait(timeout=20)
                    x = self.cell(x)
                return x

        model, batches = Slow(), torch.randn(2, 5, 6)

        def work(x: torch.Tensor) -> None:
            score(model(x)).backward()

        with Probe(model, signals=ALL) as probe, ThreadPoolExecutor(2) as pool:
            list(pool.map(work, batches))
        for signal in ("activation", "gradient"):
            found = read(probe.recording, signal)
            assert {key for key in found if key[0]} == {("cell", call, "", 0) for call in range(3)}
            assert {moments.numel for moments in found.values()} == {60}

    def test_a_thread_that_helps_counts_for_the_forward_that_it_helps(self) -> None:
        class Parallel(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell = nn.Linear(6, 6)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                with ThreadPoolExecutor(1) as pool:
                    return pool.submit(self.cell, x).result()

        model = Parallel()
        with Probe(model) as probe:
            score(model(torch.randn(5, 6))).backward()
        assert ("cell", 0, "", 0) in read(probe.recording, "gradient")

    def test_two_probes_record_the_same(self) -> None:
        model, x = mlp(inplace=True), torch.randn(5, 6)
        before = describe_model(model)
        first, second = Probe(model), Probe(model)
        first.start()
        model(x)
        second.start()
        score(model(x)).backward()
        first.stop()
        score(model(x)).backward()
        second.stop()
        score(model(x)).backward()
        model.zero_grad()
        assert describe_model(model) == before
        numels = [read(p.recording, "activation")["0", 0, "", 0].numel for p in (first, second)]
        assert numels == [60, 60]
        numels = [read(p.recording, "gradient")["0", 0, "", 0].numel for p in (first, second)]
        assert numels == [30, 60]

    def test_a_probe_of_a_part_within_a_probe_of_the_whole(self) -> None:
        model, x = mlp(), torch.randn(5, 6)
        with Probe(model) as whole, Probe(model[2]) as part:
            score(model(x)).backward()
        for signal in ("activation", "gradient"):
            of_whole = read(whole.recording, signal)["2", 0, "", 0]
            assert read(part.recording, signal)["", 0, "", 0] == of_whole
