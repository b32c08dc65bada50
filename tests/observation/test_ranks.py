from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from tests.strategies import make_record
from varprobe.errors import InvalidArgumentError
from varprobe.moments import Moments
from varprobe.observation.parts import Part
from varprobe.observation.ranks import REDUCED_LATER, Share, merge_ranks
from varprobe.recording import Record, Recording, Unobserved


def share(rank: int, *records: Record, stage: int | None = None, **options: object) -> Share:
    return Share(rank=rank, recording=Recording(records=records), stage=stage, **options)


def spread(mean: float, numel: int = 4) -> Moments:
    """Return moments of elements that differ."""
    return Moments(numel=numel, mean=mean, m2=float(numel), abs_max=abs(mean) + 1.0, zeros=0)


def merge_values(*values: Moments, signal: str = "activation") -> Moments:
    """Merge one site, of which each rank has one of the values."""
    shares = [
        share(rank, make_record(moments=value, signal=signal)) for rank, value in enumerate(values)
    ]
    (record,) = merge_ranks(shares).records
    return record.moments


class TestPlainTensors:
    def test_different_numbers_are_rows_of_the_batch(self) -> None:
        assert merge_values(spread(1.0), spread(3.0)).numel == 8

    def test_equal_numbers_are_copies(self) -> None:
        assert merge_values(spread(1.0), spread(1.0)) == spread(1.0)

    def test_copies_of_each_part_count_once(self) -> None:
        both = spread(1.0).merge(spread(3.0))
        assert merge_values(spread(1.0), spread(1.0), spread(3.0), spread(3.0)) == both

    def test_parts_that_are_not_equally_often_there_are_all_counted(self) -> None:
        # Two of three batches happen to be the same: the concatenated batch has both.
        values = [spread(1.0), spread(1.0), spread(3.0)]
        assert merge_values(*values) == values[0].merge(values[1]).merge(values[2])

    def test_constants_may_be_rows(self) -> None:
        constant = Moments(numel=4, mean=1.0, m2=0.0, abs_max=1.0, zeros=0)
        assert merge_values(constant, constant, signal="gradient").numel == 8

    @pytest.mark.parametrize("signal", ["weight", "weight_gradient"])
    def test_constant_parameters_are_copies(self, signal: str) -> None:
        zeros = Moments(numel=4, mean=0.0, m2=0.0, abs_max=0.0, zeros=4)
        assert merge_values(zeros, zeros, signal=signal) == zeros

    @given(
        means=st.lists(st.floats(-4, 4), min_size=1, max_size=4, unique=True),
        copies=st.integers(1, 4),
    )
    def test_counting_once_changes_nothing_but_the_count(
        self, means: list[float], copies: int
    ) -> None:
        values = [spread(mean) for mean in means for _ in range(copies)]
        found, pooled = merge_values(*values), pool(values)
        assert found.numel == pooled.numel / copies
        assert found.abs_max == pooled.abs_max
        assert math.isclose(found.mean, pooled.mean, rel_tol=1e-12, abs_tol=1e-12)
        assert math.isclose(found.variance, pooled.variance, rel_tol=1e-12)


def pool(values: Sequence[Moments]) -> Moments:
    first, *others = values
    for other in others:
        first = first.merge(other)
    return first


class TestDistributedTensors:
    def merge_parts(self, *parts: tuple[Moments, Part], signal: str = "weight") -> Moments:
        records = [make_record(moments=moments, signal=signal) for moments, _ in parts]
        shares = [
            share(rank, record, parts={record.key: part})
            for rank, (record, (_, part)) in enumerate(zip(records, parts, strict=True))
        ]
        (record,) = merge_ranks(shares).records
        return record.moments

    def test_shards_of_a_constant_are_no_copies(self) -> None:
        zeros = Moments(numel=4, mean=0.0, m2=0.0, abs_max=0.0, zeros=4)
        shards = (zeros, Part((0,), (0,))), (zeros, Part((1,), (1,)))
        assert self.merge_parts(*shards).numel == 8

    def test_copies_of_a_constant_count_once(self) -> None:
        zeros = Moments(numel=4, mean=0.0, m2=0.0, abs_max=0.0, zeros=4)
        copies = 2 * [(zeros, Part((), (0, 1)))]
        assert self.merge_parts(*copies, signal="activation") == zeros

    def test_a_copy_counts_where_no_lower_rank_has_it(self) -> None:
        # Rank 7 is not among those that gather.
        part = Part((), (1, 7))
        found = self.merge_parts((spread(1.0), Part((), (0,))), (spread(2.0), part))
        assert found.numel == 8


class TestWholeRecordings:
    def test_the_order_is_that_of_depth(self) -> None:
        always = make_record(module="a", depth=0), make_record(module="z", depth=2)
        merged = merge_ranks(
            [share(0, *always), share(1, make_record(module="m", depth=1), *always)]
        )
        assert [record.site.module for record in merged] == ["a", "m", "z"]

    def test_what_only_some_ranks_missed_says_which(self) -> None:
        missed, lost = (Unobserved(module=name, reason="never called") for name in "ab")
        first, second = (
            Recording(records=(make_record(),), unobserved=lines)
            for lines in ((missed, lost), (lost,))
        )
        merged = merge_ranks([Share(rank=4, recording=first), Share(rank=5, recording=second)])
        assert [str(line) for line in merged.unobserved] == [
            "a: never called (on rank 4)",
            "b: never called",
        ]

    def test_gradients_that_differ_are_said_to_be_local(self) -> None:
        records = [make_record(m, signal="weight_gradient") for m in (1.0, 2.0)]
        merged = merge_ranks([share(0, records[0]), share(1, records[1])])
        assert merged.unobserved == (REDUCED_LATER,)

    def test_another_kind_of_module_is_refused(self) -> None:
        with pytest.raises(InvalidArgumentError, match="0 is a Linear on rank 0 and a ReLU on"):
            merge_ranks([share(0, make_record(kind="Linear")), share(1, make_record(kind="ReLU"))])


def stages(*parts: Sequence[Record]) -> list[Share]:
    return [share(rank, *records, stage=rank) for rank, records in enumerate(parts)]


class TestStages:
    def test_they_follow_each_other(self) -> None:
        parts = [
            [make_record(module=name, depth=0), make_record(module="", depth=1)] for name in "ab"
        ]
        merged = merge_ranks(stages(*parts))
        assert [(r.site.module, r.depth) for r in merged] == [("a", 0), ("b", 1), ("", 2)]

    def test_a_module_of_two_stages_was_called_twice(self) -> None:
        merged = merge_ranks(stages([make_record(module="a")], [make_record(module="a")]))
        assert [(str(r.site), r.depth) for r in merged] == [("a", 0), ("a@1", 1)]

    def test_a_parameter_of_two_stages_counts_once(self) -> None:
        tied = make_record(module="a", signal="weight", output="weight")
        merged = merge_ranks(stages([tied], [tied]))
        assert [r.moments for r in merged] == [tied.moments]

    def test_a_gradient_of_two_stages_is_said_to_be_local(self) -> None:
        first, second = (make_record(v, module="a", signal="weight_gradient") for v in (1.0, 2.0))
        assert REDUCED_LATER in merge_ranks(stages([first], [second])).unobserved

    def test_two_parameters_of_one_name_are_refused(self) -> None:
        first, second = (make_record(value, module="a", signal="weight") for value in (1.0, 2.0))
        with pytest.raises(InvalidArgumentError, match="another parameter on stage 0 than on"):
            merge_ranks(stages([first], [second]))

    def test_stages_without_names_are_refused(self) -> None:
        with pytest.raises(InvalidArgumentError, match="The module of stage 0 has no parts with"):
            merge_ranks(stages([make_record(module="")], [make_record(module="a")]))

    def test_a_gap_is_refused(self) -> None:
        shares = [share(0, make_record(), stage=0), share(1, make_record(), stage=2)]
        with pytest.raises(InvalidArgumentError, match="gave the stages 0, 2, expected 0 to n-1"):
            merge_ranks(shares)
