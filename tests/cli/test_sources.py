from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from varprobe.cli.sources import find_source
from varprobe.reporting import Source

TEXT = """import functools
import json
from torch import nn

@functools.cache
def build():
    return nn.Linear(2, 2)

class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)

model = nn.Linear(2, 2)
made = functools.partial(build)
for other in [model]:
    pass
"""


@pytest.fixture
def module(tmp_path: Path) -> ModuleType:
    """Return a module in the folder nets of the current directory."""
    path = tmp_path / "nets" / "net.py"
    path.parent.mkdir()
    path.write_text(TEXT)
    spec = importlib.util.spec_from_file_location("net_with_sources", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "line"),
    [("build", 5), ("Net", 9), ("model", 13), ("made", 14), ("other", 15)],
)
def test_a_target_is_found_in_its_file(module: ModuleType, name: str, line: int) -> None:
    found = getattr(module, name)
    if name == "Net":  # as `varprobe` does, so that the class knows its module
        import sys

        sys.modules[module.__name__] = module
    expected = Source(name=f"nets/net.py:{name}", path="nets/net.py", line=line)
    assert find_source(f"nets/net.py:{name}", found, module) == expected


def test_a_name_of_several_parts_points_to_the_file(module: ModuleType) -> None:
    assert find_source("nets.net:a.b", module.model, module).line == 1


def test_paths_count_from_the_repository(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "nets")
    assert find_source("net:build", module.build, module).path == "net.py"
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    assert find_source("net:build", module.build, module).path == "nets/net.py"


def test_what_is_not_in_the_repository_has_no_line(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_source("json:dumps", module.json.dumps, module.json) == Source(name="json:dumps")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / "elsewhere"))
    assert find_source("net:build", module.build, module) == Source(name="net:build")


def test_a_module_without_a_source_has_no_line() -> None:
    import math

    assert find_source("math:pi", math.pi, math) == Source(name="math:pi")
