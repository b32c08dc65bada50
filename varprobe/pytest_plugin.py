"""The fixture ``propagation``: a test that fails when signal stops propagating through a model.

::

    def test_the_encoder_keeps_its_signal(propagation):
        propagation.assert_healthy(Encoder(), torch.randn(32, 64))

    @pytest.mark.propagation(draws=5, ignore=["VP103"])  # options of varprobe.check
    def test_the_decoder_does_on_average(propagation):
        propagation.assert_healthy(Decoder, make_inputs(), baseline="baselines/decoder.json")

Tests with the fixture have the marker without being told: ``pytest -m propagation`` runs them all.
What is not said there comes from the command line (``--varprobe-…``), then from ``[tool.varprobe]``
in pyproject.toml.

Pytest loads this file in every run of whoever has varprobe installed, so it imports torch and the
rest only when a test calls.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from varprobe.baseline import refuse_in_ci
from varprobe.errors import BaselineError, PropagationError, VarprobeError
from varprobe.settings import find_settings

if TYPE_CHECKING:
    from torch import nn

    from varprobe.diagnosis import Diagnosis

MARKER = "propagation"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that all tests with the fixture share."""
    group = parser.getgroup("varprobe", "signal propagation (fixture `propagation`)")
    group.addoption(
        "--varprobe-draws",
        type=_read_draws,
        metavar="N",
        help="Samples of the weights, where a test lets them be drawn: with init= or a function "
        "that builds the model (default: 1). A model that is given with its weights has one.",
    )
    group.addoption(
        "--varprobe-seed",
        type=int,
        metavar="N",
        help="Seed of weights, dropout and gradients (default: 0).",
    )
    group.addoption(
        "--varprobe-preset",
        choices=["strict", "default", "lenient"],
        help="Whether warnings fail, or only what no training survives (default: default).",
    )
    for what, effect in (
        ("select", "Run only the checks with these codes"),
        ("ignore", "Leave out findings with these codes"),
    ):
        group.addoption(
            f"--varprobe-{what}",
            type=_read_codes,
            action="extend",
            metavar="CODES",
            help=f"{effect} or beginnings of codes, as VP103,VP2; may be repeated.",
        )

    group.addoption(
        "--varprobe-update-baselines",
        action="store_true",
        help="Write the baselines that tests name, in place of comparing with them; not in CI.",
    )


def _read_draws(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no number of draws: at least 1 is needed")
    return int(text)


def _read_codes(text: str) -> list[str]:
    codes = [code.strip() for code in text.split(",") if code.strip()]
    if not codes:
        raise ArgumentTypeError(f"{text!r} has no code, for example VP101,VP2")
    return codes


def pytest_configure(config: pytest.Config) -> None:
    """Announce the marker, and refuse what CI must not do."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(**options): options of varprobe.check for the fixture of that name; tests with "
        "the fixture have the marker by themselves",
    )
    if config.getoption("--varprobe-update-baselines"):
        try:
            refuse_in_ci()
        except BaselineError as error:
            raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the fixture."""
    for item in items:
        if MARKER in getattr(item, "fixturenames", ()):
            item.add_marker(MARKER)


@pytest.fixture
def propagation(request: pytest.FixtureRequest) -> Propagation:
    """Assert that signal propagates through a model; see `varprobe.assert_healthy`."""
    from varprobe.diagnosis import Policy

    def given(name: str) -> Any:
        return request.config.getoption(f"--varprobe-{name}")

    try:
        # Not before a test asks: no other test run stops at a file that varprobe cannot read.
        settings = find_settings(request.config.rootpath)
        policy = Policy.of(settings).override(
            preset=given("preset"), select=given("select"), ignore=given("ignore")
        )
    except VarprobeError as error:
        # Where it was found out is not where to look.
        pytest.fail(str(error), pytrace=False)
    marks: dict[str, Any] = {}
    # From the module's marker to the function's: the closest has the last word.
    for marker in reversed(list(request.node.iter_markers(MARKER))):
        marks |= marker.kwargs
    draws = marks.pop("draws", None) or given("draws") or settings.draws or 1
    seed = given("seed") if given("seed") is not None else settings.seed or 0
    return Propagation(
        draws=draws,
        options={"seed": seed, "policy": policy, **marks},
        folder=request.path.parent,
        update=given("update-baselines"),
    )


class Propagation:
    """What the fixture gives: `varprobe.check` and `varprobe.assert_healthy` with shared options.

    Parameters
    ----------
    draws : int
        Samples of the weights, where they can be drawn.
    options : mapping
        Options of `varprobe.check`; an argument of a call takes precedence.
    folder : Path
        That of the test's file: where the path of a baseline begins.
    update : bool
        Whether baselines are written in place of being compared with.
    """

    def __init__(
        self, *, draws: int, options: Mapping[str, Any], folder: Path, update: bool
    ) -> None:
        self._draws = draws
        self._options = options
        self._folder = folder
        self._update = update

    def check(
        self, model: nn.Module | Callable[[], nn.Module], inputs: Any, **options: Any
    ) -> Diagnosis:
        """Return the verdict, for a test that asserts something else about it.

        Parameters
        ----------
        model, inputs, **options
            As in `varprobe.check`. The path of a ``baseline`` begins at the test's file:
            "baselines/encoder.json".
        """
        import varprobe

        complete = self._complete(model, options)
        baseline = complete.pop("baseline", None)
        if not isinstance(baseline, str | PathLike):
            return varprobe.check(model, inputs, baseline=baseline, **complete)
        path = self._folder / baseline
        if not self._update:
            return varprobe.check(model, inputs, baseline=path, **complete)
        diagnosis = varprobe.check(model, inputs, **complete)
        diagnosis.analysis.to_baseline().save(path)
        return diagnosis

    def assert_healthy(
        self, model: nn.Module | Callable[[], nn.Module], inputs: Any, **options: Any
    ) -> None:
        """Fail the test unless the model is healthy.

        Parameters
        ----------
        model, inputs, **options
            As in `varprobe.assert_healthy`.

        Raises
        ------
        PropagationError
            An AssertionError with the layers to blame, the measured and the allowed numbers, and
            what to do. Anything that the model raises goes through as it is.
        """
        __tracebackhide__ = True
        diagnosis = self.check(model, inputs, **options)
        if not diagnosis.healthy:
            codes = dict.fromkeys(f.code for f in diagnosis.findings if f.level == "error")
            commands = [f"next: varprobe explain {code}" for code in codes]
            # Raised here, in a frame that pytest hides, so that the report ends at the test's call.
            raise PropagationError("\n".join([str(diagnosis), *commands]))

    def _complete(self, model: object, options: Mapping[str, Any]) -> dict[str, Any]:
        from torch import nn

        # Several draws of weights that are kept would be one draw, several times.
        drawn = options.get("init") is not None or not isinstance(model, nn.Module)
        shared = {**self._options, "draws": self._draws} if drawn else self._options
        return {**shared, **options}
