"""Every class of torch.nn that has parameters, against real constructions of it."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from torch import nn

from tests.initializers.capture.oracle import find_misfits
from varprobe.initializers.capture import capture_construction

MODULES = {
    "AdaptiveLogSoftmaxWithLoss": lambda: nn.AdaptiveLogSoftmaxWithLoss(32, 60, [10, 30]),
    "BatchNorm1d": lambda: nn.BatchNorm1d(8),
    "BatchNorm2d": lambda: nn.BatchNorm2d(8),
    "BatchNorm3d": lambda: nn.BatchNorm3d(8),
    "Bilinear": lambda: nn.Bilinear(9, 8, 7),
    "Conv1d": lambda: nn.Conv1d(8, 6, 5, groups=2),
    "Conv2d": lambda: nn.Conv2d(8, 6, 3, groups=2),
    "Conv3d": lambda: nn.Conv3d(4, 6, 2),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(8, 6, 5, groups=2),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(8, 6, 3),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(4, 6, 2),
    "Embedding": lambda: nn.Embedding(40, 16, padding_idx=3),
    "EmbeddingBag": lambda: nn.EmbeddingBag(40, 16, padding_idx=3),
    "GRU": lambda: nn.GRU(12, 16, num_layers=2, bidirectional=True),
    "GRUCell": lambda: nn.GRUCell(12, 16),
    "GroupNorm": lambda: nn.GroupNorm(2, 8),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(8, affine=True),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(8, affine=True),
    "InstanceNorm3d": lambda: nn.InstanceNorm3d(8, affine=True),
    "LSTM": lambda: nn.LSTM(12, 16, proj_size=4),
    "LSTMCell": lambda: nn.LSTMCell(12, 16),
    "LayerNorm": lambda: nn.LayerNorm(8),
    "Linear": lambda: nn.Linear(30, 20),
    "LinearCrossEntropyLoss": lambda: nn.LinearCrossEntropyLoss(30, 20),
    "MultiheadAttention": lambda: nn.MultiheadAttention(16, 2, kdim=12, vdim=8, add_bias_kv=True),
    "PReLU": lambda: nn.PReLU(5),
    "RMSNorm": lambda: nn.RMSNorm(8),
    "RNN": lambda: nn.RNN(12, 16),
    "RNNBase": lambda: nn.RNNBase("LSTM", 12, 16),
    "RNNCell": lambda: nn.RNNCell(12, 16),
    "RNNCellBase": lambda: nn.RNNCellBase(12, 16, bias=True, num_chunks=2),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(8),
    "Transformer": lambda: nn.Transformer(16, 2, 1, 1, 32, batch_first=True),
    "TransformerDecoder": lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32), 2),
    "TransformerDecoderLayer": lambda: nn.TransformerDecoderLayer(16, 2, 32),
    "TransformerEncoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2
    ),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(16, 2, 32),
}
"""How to build one of each. The table is complete, see the last test."""

WITHOUT_SHAPES = {name for name in vars(nn) if name.startswith("Lazy")}
"""These have no parameters before their first forward, hence nothing that could have a law."""

present = pytest.mark.parametrize("name", [name for name in MODULES if hasattr(nn, name)])


@present
def test_the_captured_laws_are_those_of_real_constructions(name) -> None:
    captured = capture_construction(MODULES[name])
    assert not captured.reasons
    assert find_misfits(captured.laws, MODULES[name], builds=24) == []


@present
def test_drawn_parameters_take_no_memory(name) -> None:
    captured = capture_construction(MODULES[name])
    assert all(parameter.is_meta for parameter in captured.model.parameters())
    assert not any(buffer.is_meta for buffer in captured.model.buffers())


def test_the_comparison_notices_a_wrong_law() -> None:
    laws = capture_construction(lambda: nn.Linear(30, 20)).laws
    wider = find_misfits(laws, lambda: nn.Linear(20, 20), builds=24)
    assert sorted(said.partition(":")[0] for said in wider) == ["bias", "weight"]
    assert find_misfits(laws, lambda: nn.Linear(30, 20, bias=False), builds=2)


def _build_with_fours(kind: type[nn.Module]) -> nn.Module | None:
    signature = inspect.signature(kind.__init__)
    required = [
        parameter
        for parameter in list(signature.parameters.values())[1:]
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # deprecated classes
        try:
            return kind(*[4] * len(required))
        except (TypeError, ValueError, AttributeError):
            return None


def test_the_table_has_every_class_of_torch_that_has_parameters() -> None:
    kinds = {
        name: kind
        for name, kind in vars(nn).items()
        if isinstance(kind, type) and issubclass(kind, nn.Module)
    }
    built = {name: _build_with_fours(kind) for name, kind in kinds.items()}
    unknown = {name for name, module in built.items() if module is None}
    with_parameters = {name for name, module in built.items() if module and [*module.parameters()]}
    assert with_parameters - WITHOUT_SHAPES <= MODULES.keys()
    # What four does not build: modules around others, losses and reshapings without parameters.
    assert unknown - MODULES.keys() - WITHOUT_SHAPES <= {
        "ChannelShuffle", "DataParallel", "Unflatten", "Fold", "FractionalMaxPool2d",
        "FractionalMaxPool3d",
    }  # fmt: skip
