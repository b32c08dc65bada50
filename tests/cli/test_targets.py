from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from varprobe.cli.commands import Failure
from varprobe.cli.targets import load_target


@pytest.mark.parametrize(
    ("spec", "inputs", "loss"),
    [
        ("models.py:he", False, False),
        ("models:he", False, False),
        ("models.py:with_inputs", True, False),
        ("models.py:with_loss", True, True),
        ("models.py:Noisy", False, False),
        ("models.py:instance", False, False),
        ("models.py:pair", True, False),
        ("models.py:instance.linear", False, False),
    ],
)
def test_what_a_target_may_be(spec: str, inputs: bool, loss: bool) -> None:
    target = load_target(spec)
    assert isinstance(target.sample, nn.Module)
    assert (target.inputs is not None, target.loss is not None) == (inputs, loss)


def test_a_function_gives_a_model_to_each_draw_and_an_instance_is_kept() -> None:
    built = load_target("models.py:with_inputs")
    assert not isinstance(built.model, nn.Module)
    assert built.model() is not built.model()
    kept = load_target("models.py:instance")
    assert kept.model is kept.sample


def test_a_file_finds_its_neighbours(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "neighbour_of_target.py").write_text("import torch\nmodel = torch.nn.Linear(2, 2)\n")
    (folder / "with_neighbour.py").write_text("from neighbour_of_target import model\n")
    assert isinstance(load_target("folder/with_neighbour.py:model").sample, nn.Linear)


def test_a_file_named_like_an_installed_module_does_not_replace_it(tmp_path: Path) -> None:
    import json

    (tmp_path / "json.py").write_text("import torch\nmodel = torch.nn.Linear(2, 2)\n")
    load_target("json.py:model")
    assert json.loads("1") == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("models.py", "not of the form package.module:name or path/to/file.py:name, for example"),
        (":he", "not of the form"),
        ("models.py:", "not of the form"),
        ("absent.py:he", "names the file 'absent.py', which does not exist"),
        ("absent.module:he", "cannot be imported: ModuleNotFoundError: No module named 'absent'."),
        ("models.py:hee", "there is no 'hee'. Did you mean 'he'?"),
        ("models.py:instance.liner", "there is no 'liner'."),
        ("models.py:number", "is of type int, expected a torch.nn.Module"),
        ("models.py:gives_number", "gives int, expected a torch.nn.Module"),
        ("models.py:needs", "callable without arguments (missing a required argument: 'width')"),
    ],
)
def test_what_is_wrong_is_said(spec: str, message: str) -> None:
    with pytest.raises(Failure) as caught:
        load_target(spec)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero."),
        ("import sys; sys.exit(0)", "SystemExit: 0."),
    ],
)
def test_a_module_that_fails_is_no_traceback(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "failing.py").write_text(code)
    with pytest.raises(Failure) as caught:
        load_target("failing.py:model")
    assert f"TARGET 'failing.py:model' cannot be imported: {message}" in caught.value.message


def test_under_the_meta_device_every_call_builds_without_numbers() -> None:
    target = load_target("models.py:with_inputs", meta=True)
    assert not isinstance(target.model, nn.Module)
    for model in (target.sample, target.model()):
        assert all(parameter.is_meta for parameter in model.parameters())
    assert target.inputs.is_meta
