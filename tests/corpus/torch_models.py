"""Architectures out of what torch.nn ships, put together as torch's tutorials and examples do."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from tests.corpus.subject import Builder, Subject

WORDS = 50


class WordModel(nn.Module):
    """An LSTM between an embedding and a decoder that share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(WORDS, 32)
        self.drop = nn.Dropout(0.2)
        self.rnn = nn.LSTM(32, 32, num_layers=2, dropout=0.2)
        self.decoder = nn.Linear(32, WORDS)
        self.decoder.weight = self.encoder.weight

    def forward(self, words: torch.Tensor) -> tuple[torch.Tensor, Any]:
        features, state = self.rnn(self.drop(self.encoder(words)))
        return F.log_softmax(self.decoder(self.drop(features)), dim=-1), state


class SequenceTagger(nn.Module):
    """A bidirectional GRU over sequences of several lengths, with an adaptive softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 16, padding_idx=0)
        self.rnn = nn.GRU(16, 16, batch_first=True, bidirectional=True)
        self.tags = nn.AdaptiveLogSoftmaxWithLoss(32, WORDS, cutoffs=[10, 25])

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> Any:
        packed = pack_padded_sequence(self.embed(words), lengths, batch_first=True)
        features, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.tags(features.flatten(0, 1), words.flatten())


class Digits(nn.Module):
    """The convolutional network of the MNIST example, with functional activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 32, 3)
        self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(32 * 36, 64), nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(image)))), 2)
        hidden = self.dropout2(F.relu(self.fc1(self.dropout1(features).flatten(1))))
        return F.log_softmax(self.fc2(hidden), dim=1)


class Autoencoder(nn.Module):
    """The variational autoencoder of the example: three outputs, noise from the generator."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(64, 32), nn.Linear(8, 32)
        self.mean, self.log_variance = nn.Linear(32, 8), nn.Linear(32, 8)
        self.out = nn.Linear(32, 64)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.encode(x).relu()
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        image = self.out(self.decode(code).relu()).sigmoid()
        return {"image": image, "mean": mean, "log_variance": log_variance}


class Residual(nn.Module):
    """A residual block that changes its tensors in place."""

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class Checkpointed(nn.Module):
    """Blocks that are computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.1), nn.GELU()) for _ in range(4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x


class UNet(nn.Module):
    """Two levels, joined by concatenation, with spectrally normalized convolutions."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.down1, self.down2 = norm(nn.Conv2d(3, 8, 3, 1, 1)), norm(nn.Conv2d(8, 16, 3, 2, 1))
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.norm, self.head = nn.GroupNorm(2, 16), nn.Conv2d(16, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        wide = F.leaky_relu(self.down1(image), 0.2, inplace=True)
        deep = F.leaky_relu(self.down2(wide), 0.2, inplace=True)
        return self.head(self.norm(torch.cat([wide, self.up(deep)], dim=1)))


def _mask_second() -> torch.Tensor:
    return torch.arange(6)[None] >= torch.tensor([[6], [4]])


def _transformer() -> Subject:
    model = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    return Subject(model, (torch.randn(2, 6, 32), torch.randn(2, 5, 32)), {"tgt_mask": mask})


def _encoder(training: bool) -> Subject:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=training)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).train(training)
    return Subject(model, (torch.randn(2, 6, 32),), {"src_key_padding_mask": _mask_second()})


def _attention() -> Subject:
    x = torch.randn(6, 2, 32)
    return Subject(nn.MultiheadAttention(32, 4, dropout=0.1, add_bias_kv=True), (x, x, x))


def _word_model() -> Subject:
    return Subject(WordModel(), (torch.randint(0, WORDS, (7, 3)),))


def _tagger() -> Subject:
    return Subject(SequenceTagger(), (torch.randint(1, WORDS, (3, 6)), torch.tensor([6, 4, 2])))


def _text_classifier() -> Subject:
    model = nn.ModuleDict({"bag": nn.EmbeddingBag(WORDS, 32), "fc": nn.Linear(32, 4)})
    model.forward = lambda words, offsets: model["fc"](model["bag"](words, offsets))
    return Subject(model, (torch.randint(0, WORDS, (20,)), torch.tensor([0, 7, 12])))


def _digits() -> Subject:
    return Subject(Digits(), (torch.randn(4, 1, 16, 16),))


def _autoencoder() -> Subject:
    return Subject(Autoencoder(), (torch.rand(8, 64),))


def _generator() -> Subject:
    layers = [
        nn.ConvTranspose2d(16, 32, 4, 1, 0, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False),
        nn.Tanh(),
    ]
    return Subject(nn.Sequential(*layers), (torch.randn(4, 16, 1, 1),))


def _super_resolution() -> Subject:
    layers = [nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1)]
    return Subject(nn.Sequential(*layers, nn.PixelShuffle(2)), (torch.rand(2, 1, 12, 12),))


def _residual() -> Subject:
    layers = [nn.Conv2d(3, 16, 3, 1, 1), Residual(16), Residual(16), nn.Flatten(), nn.LazyLinear(5)]
    model = nn.Sequential(*layers)
    return Subject(model, (torch.randn(4, 3, 8, 8),))


def _checkpointed() -> Subject:
    return Subject(Checkpointed(), (torch.randn(4, 32, requires_grad=True),))


def _unet() -> Subject:
    return Subject(UNet(), (torch.randn(2, 3, 8, 8),))


def _volumes() -> Subject:
    layers = [nn.Conv3d(1, 8, 3), nn.InstanceNorm3d(8, affine=True), nn.PReLU(8), nn.MaxPool3d(2)]
    return Subject(nn.Sequential(*layers), (torch.randn(2, 1, 8, 8, 8),))


MODELS: dict[str, Builder] = {
    "Transformer": _transformer,
    "TransformerEncoder (training)": lambda: _encoder(training=True),
    "TransformerEncoder (inference)": lambda: _encoder(training=False),
    "MultiheadAttention": _attention,
    "LSTM word model": _word_model,
    "GRU tagger": _tagger,
    "EmbeddingBag classifier": _text_classifier,
    "MNIST": _digits,
    "VAE": _autoencoder,
    "DCGAN generator": _generator,
    "super-resolution": _super_resolution,
    "residual (in place)": _residual,
    "checkpointed MLP": _checkpointed,
    "U-Net (spectral norm)": _unet,
    "volumes": _volumes,
}
