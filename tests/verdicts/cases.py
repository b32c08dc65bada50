"""All cases: what a verdict must flag, and what it must not."""

from __future__ import annotations

from tests.diagnosis import cases as published
from tests.verdicts import convolutional, plain, sequences
from tests.verdicts.case import Case, restate

PUBLISHED_FAULTY = {name: restate(case) for name, case in published.FAULTY.items()}
PUBLISHED_HEALTHY = {name: restate(case) for name, case in published.HEALTHY.items()}

FAULTY: dict[str, Case] = {
    **PUBLISHED_FAULTY,
    **plain.FAULTY,
    **convolutional.FAULTY,
    **sequences.FAULTY,
}

HEALTHY: dict[str, Case] = {
    **PUBLISHED_HEALTHY,
    **plain.HEALTHY,
    **convolutional.HEALTHY,
    **sequences.HEALTHY,
}
