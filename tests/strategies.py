"""Measurements for tests: hypothesis strategies, one plain record, and exact comparison."""

from __future__ import annotations

import dataclasses

from hypothesis import strategies as st

from varprobe.moments import Moments
from varprobe.recording import Record, Recording, Site
from varprobe.schema import SIGNALS

# Zero, or magnitudes whose squares neither overflow nor underflow: the error bounds of the tests
# are relative to the largest square.
elements = st.one_of(
    st.just(0.0), st.floats(1e-100, 1e100), st.floats(1e-100, 1e100).map(lambda x: -x)
)


def build_from_types(kind: type, **chosen: st.SearchStrategy[object]) -> st.SearchStrategy:
    """Draw every field of a dataclass from its type, those with a default included."""
    inferred = {field.name: ... for field in dataclasses.fields(kind)}
    return st.builds(kind, **{**inferred, **chosen})


# Any values of the right types, whether they make sense together or not.
st.register_type_strategy(Moments, build_from_types(Moments))
st.register_type_strategy(Site, build_from_types(Site, signal=st.sampled_from(SIGNALS)))
records = build_from_types(
    Record, exponents=st.none() | st.dictionaries(st.integers(), st.integers(), max_size=4)
)

# Keys that mean something in the file format come up by themselves too rarely.
keys = st.text(max_size=8) | st.sampled_from(["$float", "$$float", "$", "format"])
facts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
recordings = build_from_types(
    Recording,
    records=st.lists(records, max_size=3).map(tuple),
    meta=st.dictionaries(keys, facts, max_size=3),
)


def make_record(value: float = 1.0, **changes: object) -> Record:
    """Return a record of four elements of ``value``; ``changes`` are fields of Record or Site."""
    site = {name: changes.pop(name) for name in _SITE_FIELDS if name in changes}
    moments = Moments(numel=4, mean=value, m2=0.0, abs_max=abs(value), zeros=0)
    fields = {"depth": 0, "kind": "Linear", "moments": moments, **changes}
    return Record(site=Site(**{"module": "0", **site}), **fields)


_SITE_FIELDS = [field.name for field in dataclasses.fields(Site)]


def describe_exactly(recording: Recording) -> str:
    """Return text that is the same if and only if two recordings are, NaN being equal to itself.

    The repr of a float is that of no other float. Only the payload of a NaN has no text.
    """
    return repr((recording.records, recording.meta, recording.unobserved))
