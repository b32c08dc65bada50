"""Models to name as TARGET, and two ways to run the command: in this process, and in its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from varprobe.cli import main

MODELS = """
import torch
from torch import nn

print("importing")

def stack(init):
    print("building")
    layers = []
    for _ in range(30):
        linear = nn.Linear(64, 64, bias=False)
        init(linear.weight)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers)

def he():
    return stack(lambda weight: nn.init.kaiming_normal_(weight))

def xavier():
    return stack(nn.init.xavier_normal_)

def with_inputs():
    return he(), torch.randn(16, 64)

def with_loss():
    return he(), torch.randn(16, 64), lambda output: output.square().mean()

def with_foreign_loss():
    return he(), torch.randn(16, 64), lambda output: torch.ones(3, requires_grad=True).sum()

class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        print("forward")
        return self.linear(x)

class Broken(Noisy):
    def forward(self, x):
        raise KeyError("no such thing")

class Leaving(Noisy):
    def forward(self, x):
        raise SystemExit(0)

class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 8), nn.Linear(8, 8)

    def forward(self, tokens, scale):
        return self.head(self.embedding(tokens)) * scale

instance = Noisy()
pair = (instance, torch.randn(4, 8))
number = 5

def needs(width):
    return nn.Linear(width, width)

def gives_number():
    return number

def gives_nothing_to_record():
    return nn.Identity(), torch.randn(4, 8)
"""

COMMAND = "from varprobe.cli import main; main(prog_name='varprobe')"


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sit in a directory with the file models.py, on a wide screen without colours.

    What a TARGET brings into this process is gone after the test.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "models.py").write_text(MODELS)
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def run() -> Callable[..., Result]:
    """Return what runs the command in this process."""

    def invoke(*args: str) -> Result:
        return CliRunner().invoke(main, args, prog_name="varprobe")

    return invoke


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """Return what starts the command in a process of its own, as a shell does."""

    def start(*args: str) -> subprocess.Popen[str]:
        root = str(Path(__file__).parents[2])
        code = f"import sys; sys.path.append({root!r}); {COMMAND}"
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-c", code, *args], stdout=pipe, stderr=pipe, text=True
        )

    return start
