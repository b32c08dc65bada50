"""The registry is the process's own: what other tests file in it must not be seen here."""

from __future__ import annotations

import pytest

from tests.initializers.layers import BUILT_IN, WITH_INPUTS
from varprobe.initializers.named import INITIALIZATIONS


@pytest.fixture(autouse=True)
def built_in_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show each test the named initializations of varprobe, and undo what it registers."""
    built_in = {name: INITIALIZATIONS[name] for name in BUILT_IN + WITH_INPUTS}
    monkeypatch.setattr(INITIALIZATIONS, "_entries", built_in)
