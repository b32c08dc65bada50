"""One pool of ranks for all tests of a test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.distributed.ranks import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Yield the pool; its processes start with the first job."""
    pool = Ranks()
    yield pool
    pool.close()
