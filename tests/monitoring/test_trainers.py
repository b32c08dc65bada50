"""Trainers of other libraries end with bitwise the same weights, watched or not.

None of these libraries is needed by varprobe; a test is skipped where its library is absent.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.monitoring.loops import Watch, compare_runs, count_elements, list_steps

# What other libraries warn about is not ours to judge.
pytestmark = [pytest.mark.filterwarnings("ignore")]


def build() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(8, 2))


def make_data(size: int = 20) -> TensorDataset:
    return TensorDataset(torch.randn(size, 6), torch.randn(size, 2))


@pytest.fixture(autouse=True)
def seeded_elsewhere() -> None:
    random.seed(0)
    np.random.seed(0)


def test_lightning(tmp_path) -> None:
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")

    class Regression(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = build()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
            return F.mse_loss(self(batch[0]), batch[1])

        validation_step = training_step

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    def loop(watch: Watch) -> nn.Module:
        model = Regression()
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        with watch(model):
            trainer.fit(model, DataLoader(make_data(), 5, shuffle=True), DataLoader(make_data(), 7))
        return model.net

    recording = compare_runs(loop)
    assert list_steps(recording) == [0, 2, 4, 6]
    assert count_elements(recording, "net.0") == {40}
    assert recording.meta["steps"] == 8


@pytest.mark.parametrize("accumulate", [1, 2])
def test_hugging_face_trainer(tmp_path, accumulate) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")

    def loop(watch: Watch) -> nn.Module:
        config = transformers.GPT2Config(
            n_layer=2, n_head=2, n_embd=8, vocab_size=11, n_positions=6, bos_token_id=0
        )
        model = transformers.GPT2LMHeadModel(config)
        tokens = torch.randint(11, (20, 6))
        rows = [{"input_ids": row, "labels": row} for row in tokens]
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=2,
            per_device_train_batch_size=5,
            gradient_accumulation_steps=accumulate,
            eval_strategy="epoch",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )

        with watch(model) as monitor:

            class CountSteps(transformers.TrainerCallback):
                def on_step_begin(self, *args: object, **kwargs: object) -> None:
                    monitor.step()

            transformers.Trainer(
                model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[CountSteps()]
            ).train()
        return model

    recording = compare_runs(loop)
    assert list_steps(recording) == list(range(0, 8 // accumulate, 2))
    assert count_elements(recording, "transformer.h.0") == {accumulate * 5 * 6 * 8}
    assert count_elements(recording, "transformer.h.0", "gradient") == {accumulate * 5 * 6 * 8}


def test_accelerate() -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")

    def loop(watch: Watch) -> nn.Module:
        # It is one for the process, and Hugging Face's trainer has set it up otherwise.
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = accelerate.Accelerator(
            cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2
        )
        bare = build()
        data = DataLoader(make_data(), 5, shuffle=True)
        model, optimizer, data = accelerator.prepare(
            bare, torch.optim.Adam(bare.parameters()), data
        )
        with watch(model) as monitor:
            monitor.step()
            for _ in range(2):
                for x, y in data:
                    with accelerator.accumulate(model):
                        accelerator.backward(F.mse_loss(model(x), y))
                        optimizer.step()
                        optimizer.zero_grad()
                    if accelerator.sync_gradients:
                        monitor.step()
        return bare

    recording = compare_runs(loop)
    assert list_steps(recording) == [0, 2]
    assert count_elements(recording, "0") == {2 * 40}


def test_ignite() -> None:
    engine = pytest.importorskip("ignite.engine", reason="ignite is not installed")

    def loop(watch: Watch) -> nn.Module:
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trainer = engine.create_supervised_trainer(model, optimizer, F.mse_loss)
        evaluator = engine.create_supervised_evaluator(model)
        data = DataLoader(make_data(), 5, shuffle=True)
        trainer.add_event_handler(engine.Events.EPOCH_COMPLETED, lambda: evaluator.run(data))
        with watch(model):
            trainer.run(data, max_epochs=2)
        return model

    recording = compare_runs(loop)
    assert list_steps(recording) == [0, 2, 4, 6]
    assert recording.meta["steps"] == 8


def test_fastai() -> None:
    fastai = pytest.importorskip("fastai.learner", reason="fastai is not installed")
    from fastai.callback import progress, schedule  # noqa: F401  they add methods to Learner
    from fastai.data.core import DataLoaders

    def loop(watch: Watch) -> nn.Module:
        model = build()
        loaders = DataLoaders(
            DataLoader(make_data(), 5, shuffle=True), DataLoader(make_data(), 7), device="cpu"
        )
        learner = fastai.Learner(loaders, model, loss_func=F.mse_loss)
        with watch(model), learner.no_bar(), learner.no_logging():
            learner.fit_one_cycle(2)
        return model

    recording = compare_runs(loop)
    assert list_steps(recording) == [0, 2, 4, 6]
    assert recording.meta["steps"] == 8


def test_pyro() -> None:
    pyro = pytest.importorskip("pyro", reason="pyro is not installed")
    from pyro import distributions
    from pyro.infer import SVI, Trace_ELBO

    def loop(watch: Watch) -> nn.Module:
        pyro.clear_param_store()
        encoder, decoder = nn.Linear(6, 8), nn.Linear(4, 6)

        def model(x: torch.Tensor) -> None:
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(x)):
                prior = distributions.Normal(torch.zeros(len(x), 4), 1.0).to_event(1)
                mean = decoder(pyro.sample("latent", prior))
                pyro.sample("x", distributions.Normal(mean, 1.0).to_event(1), obs=x)

        def guide(x: torch.Tensor) -> None:
            pyro.module("encoder", encoder)
            with pyro.plate("data", len(x)):
                mean, log_scale = encoder(x).chunk(2, dim=-1)
                posterior = distributions.Normal(mean, log_scale.exp()).to_event(1)
                pyro.sample("latent", posterior)

        inference = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss=Trace_ELBO())
        with watch(decoder):
            for _ in range(4):
                inference.step(torch.randn(5, 6))
        return nn.ModuleList([encoder, decoder])

    recording = compare_runs(loop)
    assert list_steps(recording) == [0, 2]
    assert count_elements(recording, "") == {30}


def test_higher() -> None:
    higher = pytest.importorskip("higher", reason="higher is not installed")

    def loop(watch: Watch) -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
        outer = torch.optim.Adam(model.parameters())
        inner = torch.optim.SGD(model.parameters(), lr=0.1)
        with watch(model):
            for _ in range(3):
                outer.zero_grad()
                # The fast weights are those of a copy, which is not watched.
                with higher.innerloop_ctx(model, inner) as (copied, optimizer):
                    optimizer.step(copied(torch.randn(5, 6)).square().mean())
                    copied(torch.randn(5, 6)).square().mean().backward()
                F.mse_loss(model(torch.randn(5, 6)), torch.randn(5, 2)).backward()
                outer.step()
        return model

    recording = compare_runs(loop)
    assert list_steps(recording) == [0, 2]
    assert count_elements(recording, "0") == {40}
