"""The fixture ``propagation``: a test that fails when signal stops propagating through a model.

::

    def test_the_encoder_keeps_its_signal(propagation):
        propagation.assert_healthy(Encoder(), torch.randn(32, 64))

Pytest loads this file in every run of whoever has varprobe installed, so it imports torch and the
rest only when a test calls.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from varprobe.errors import PropagationError

if TYPE_CHECKING:
    from torch import nn

    from varprobe.diagnosis import Diagnosis


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that all tests with the fixture share."""
    group = parser.getgroup("varprobe", "signal propagation (fixture `propagation`)")
    group.addoption(
        "--varprobe-draws",
        type=_read_draws,
        default=1,
        metavar="N",
        help="Samples of the weights, where a test lets them be drawn: with init= or a function "
        "that builds the model (default: 1). A model that is given with its weights has one.",
    )
    group.addoption(
        "--varprobe-seed",
        type=int,
        default=0,
        metavar="N",
        help="Seed of weights, dropout and gradients (default: 0).",
    )
    group.addoption(
        "--varprobe-ignore",
        action="append",
        default=[],
        metavar="CODES",
        help="Leave out findings with these codes or beginnings of codes, as VP103,VP2; may be "
        "repeated (default: none).",
    )


def _read_draws(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no number of draws: at least 1 is needed")
    return int(text)


@pytest.fixture
def propagation(request: pytest.FixtureRequest) -> Propagation:
    """Assert that signal propagates through a model; see `varprobe.assert_healthy`."""
    given = request.config.getoption
    codes = [code.strip() for text in given("--varprobe-ignore") for code in text.split(",")]
    return Propagation(
        draws=given("--varprobe-draws"), seed=given("--varprobe-seed"), ignore=tuple(codes)
    )


class Propagation:
    """What the fixture gives: `varprobe.check` and `varprobe.assert_healthy` with shared options.

    Parameters
    ----------
    draws, seed, ignore
        From the command line; an argument of a call takes precedence.
    """

    def __init__(self, *, draws: int, seed: int, ignore: tuple[str, ...]) -> None:
        self._draws = draws
        self._options = {"seed": seed, "ignore": ignore}

    def check(
        self, model: nn.Module | Callable[[], nn.Module], inputs: Any, **options: Any
    ) -> Diagnosis:
        """Return the verdict, for a test that asserts something else about it.

        Parameters
        ----------
        model, inputs, **options
            As in `varprobe.check`.
        """
        import varprobe

        return varprobe.check(model, inputs, **self._complete(model, options))

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
