"""What is published is what was tested: the wheel, built from the sdist, where it is alone."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: object, directory: Path) -> str:
    result = subprocess.run(
        list(map(str, command)), cwd=directory, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, directory=ROOT)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the scripts directory of a new environment that holds the wheel.

    Its dependencies are those of this environment, seen through a path file: another torch would
    take minutes. The package itself is seen from the wheel only, because a path file does not
    follow the path files of the directory that it names, and so not the editable install.
    """
    environment = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", environment, directory=ROOT)
    paths = {"base": str(environment), "platbase": str(environment)}
    site_packages = Path(sysconfig.get_path("purelib", "venv", paths))
    scripts = Path(sysconfig.get_path("scripts", "venv", paths))
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", scripts / "python"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, directory=environment)
    return scripts


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top.split("-")[0] for top in tops} == {"varprobe"}
    assert "varprobe/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    shipped = {name for name in names if name.startswith("varprobe/")}
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "varprobe").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert shipped == sources


def test_it_is_imported_from_its_own_environment(scripts: Path, tmp_path: Path) -> None:
    code = "import varprobe; print(varprobe.__file__); varprobe.Probe"
    file = run(scripts / "python", "-c", code, directory=tmp_path).strip()
    assert Path(file).is_relative_to(scripts.parent)


def test_its_command_answers(scripts: Path, tmp_path: Path) -> None:
    assert "Usage: varprobe" in run(scripts / "varprobe", "--help", directory=tmp_path)
