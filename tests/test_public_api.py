"""The public names: which there are, that each explains itself, and that none is shadowed."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil

import pytest

import varprobe

# To add or to remove a name is a decision. It is made here, and told in CHANGELOG.md.
PUBLIC = {
    "Analysis",
    "Baseline",
    "BaselineError",
    "CompareDisplay",
    "Comparison",
    "DepthDisplay",
    "Diagnosis",
    "DuplicateNameError",
    "Expectation",
    "Finding",
    "Fix",
    "Identification",
    "IdentificationDisplay",
    "InvalidArgumentError",
    "MissingRuleError",
    "Moments",
    "Monitor",
    "NothingRecordedError",
    "PhaseDiagram",
    "PhaseDisplay",
    "Policy",
    "Prediction",
    "Probe",
    "ProbeStateError",
    "PropagationError",
    "Record",
    "Recording",
    "RecordingFormatError",
    "Repair",
    "SettingsError",
    "Site",
    "UnknownNameError",
    "Unobserved",
    "UnsupportedModelError",
    "VarprobeError",
    "VarprobeWarning",
    "WeightLaw",
    "analyze",
    "assert_healthy",
    "check",
    "check_rule",
    "compare",
    "diagnose",
    "identify",
    "initialization",
    "initialize",
    "is_container",
    "is_leaf",
    "law_of",
    "map_phases",
    "plot_compare",
    "plot_depth",
    "plot_identification",
    "plot_phase",
    "predict",
    "profile",
    "repair",
    "rule",
}


def is_exception(item: object) -> bool:
    return inspect.isclass(item) and issubclass(item, Exception)


def test_the_public_names_are_these() -> None:
    assert set(varprobe.__all__) == PUBLIC
    assert len(varprobe.__all__) == len(PUBLIC)


def test_dir_lists_what_is_loaded_lazily() -> None:
    assert set(dir(varprobe)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_object_explains_itself(name: str) -> None:
    item = getattr(varprobe, name)
    docstring = inspect.getdoc(item) or ""
    assert docstring.split("\n")[0].endswith("."), "the first line is a sentence"
    # Exceptions are met, not called: their tree is drawn in `varprobe.errors`.
    if not is_exception(item):
        assert "Examples\n--------\n>>> " in docstring, "an example that runs as a doctest"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        varprobe.nonsense  # noqa: B018


def test_no_module_takes_the_place_of_a_public_object() -> None:
    # Importing the submodule `profile` would overwrite the function `profile` on the package.
    modules = {module.name for module in pkgutil.iter_modules(varprobe.__path__)}
    assert modules.isdisjoint(PUBLIC)
    for module in modules:
        importlib.import_module(f"varprobe.{module}")
    assert not [name for name in PUBLIC if inspect.ismodule(getattr(varprobe, name))]


def test_the_command_and_the_plugin_are_registered() -> None:
    points = importlib.metadata.distribution("varprobe").entry_points
    assert {(point.group, point.name, point.value) for point in points} == {
        ("console_scripts", "varprobe", "varprobe.cli:main"),
        ("pytest11", "varprobe", "varprobe.pytest_plugin"),
    }
