from __future__ import annotations

import pytest

from tests.strategies import make_record
from varprobe.moments import LinearInput, Moments
from varprobe.recording import UNKNOWN_CALL, Recording, Site, Unobserved
from varprobe.schema import RECORDING


class TestSite:
    @pytest.mark.parametrize(
        ("site", "text"),
        [
            (Site(module="layer1.0"), "layer1.0"),
            (Site(module=""), "(root)"),
            (Site(module="rnn", call=2, output="1.0"), "rnn@2.1.0"),
            (Site(module="block", call=UNKNOWN_CALL), "block@?"),
        ],
    )
    def test_reads_as_a_place(self, site: Site, text: str) -> None:
        assert str(site) == text


class TestRecord:
    def test_merging_pools_all_that_was_measured(self) -> None:
        first = make_record(
            1.0,
            depth=3,
            exponents={1: 4},
            linear_input=LinearInput(
                second_moment=1.0, energy=2.0, common_energy=0.5, effective_samples=3.0, positions=4
            ),
        )
        second = make_record(3.0, depth=1, exponents={2: 4}, linear_input=first.linear_input)
        merged = first.merge(second)
        assert merged.depth == 1
        assert merged.moments == Moments(numel=8, mean=2.0, m2=8.0, abs_max=3.0, zeros=0)
        assert merged.exponents == {1: 4, 2: 4}
        assert merged.linear_input is not None
        assert merged.linear_input.positions == 8

    def test_a_row_has_exactly_the_columns_of_the_schema(self) -> None:
        assert list(make_record().to_row()) == [column.name for column in RECORDING]


class TestUnobserved:
    def test_reads_as_a_place_and_a_reason(self) -> None:
        assert str(Unobserved(module="head", reason="never called")) == "head: never called"
        assert str(Unobserved(module="", reason="no tensor")) == "(root): no tensor"


class TestRecording:
    def test_merging_pools_what_has_the_same_key_and_keeps_the_rest(self) -> None:
        first = Recording(records=(make_record(1.0), make_record(1.0, module="1")))
        second = Recording(records=(make_record(3.0), make_record(3.0, draw=1)))
        merged = first.merge(second)
        assert [(r.site.module, r.draw) for r in merged] == [("0", 0), ("1", 0), ("0", 1)]
        pooled = merged.records[0].moments
        assert (pooled.numel, pooled.mean, pooled.variance) == (8, 2.0, 1.0)

    @pytest.mark.parametrize(
        "change",
        [
            {"run": "b"},
            {"draw": 1},
            {"step": 1},
            {"call": 1},
            {"output": "1"},
            {"signal": "gradient"},
            {"backward": 1},
        ],
    )
    def test_different_observations_are_never_pooled(self, change: dict[str, object]) -> None:
        merged = Recording(records=(make_record(),)).merge(
            Recording(records=(make_record(**change),))
        )
        assert len(merged) == 2

    def test_merging_keeps_the_facts_that_agree(self) -> None:
        first = Recording(records=(), meta={"model": "MLP", "seed": 0})
        second = Recording(records=(), meta={"model": "MLP", "seed": 1})
        assert first.merge(second).meta == {"model": "MLP"}

    def test_merging_lists_each_unobserved_thing_once(self) -> None:
        head, tail = (Unobserved(module=m, reason="never called") for m in ("head", "tail"))
        merged = Recording(records=(), unobserved=(head,)).merge(
            Recording(records=(), unobserved=(head, tail))
        )
        assert merged.unobserved == (head, tail)

    def test_merging_leaves_its_arguments_alone(self) -> None:
        first, second = (
            Recording(records=(make_record(1.0),)),
            Recording(records=(make_record(3.0),)),
        )
        first.merge(second)
        assert first == Recording(records=(make_record(1.0),))
        assert second == Recording(records=(make_record(3.0),))

    def test_select_matches_all_that_is_asked(self) -> None:
        recording = Recording(
            records=(
                make_record(run="a", draw=0),
                make_record(run="a", draw=1, signal="gradient"),
                make_record(run="b", draw=1),
            )
        )
        assert len(recording.select()) == 3
        assert recording.select(run="a", draw=1) == recording.records[1:2]
        assert recording.select(signal="activation", draw=1) == recording.records[2:]

    def test_runs_draws_and_modules_are_counted(self) -> None:
        recording = Recording(
            records=(
                make_record(run="a", draw=0),
                make_record(run="a", draw=1, module="1"),
                make_record(run="b", draw=0, module="2", signal="weight"),
            )
        )
        assert recording.runs == ("a", "b")
        assert recording.draws == 2
        assert recording.modules == ("0", "1")
        assert Recording(records=()).draws == 0

    def test_relabel_renames_every_record(self) -> None:
        recording = Recording(records=(make_record(run="a"), make_record(run="b")), meta={"n": 1})
        assert recording.relabel("c").runs == ("c",)
        assert recording.relabel("c").meta == {"n": 1}

    def test_the_frame_has_one_row_a_record(self) -> None:
        frame = Recording(records=(make_record(2.0), make_record(3.0, draw=1))).to_frame()
        assert list(frame) == [column.name for column in RECORDING]
        assert frame["second_moment"].tolist() == [4.0, 9.0]
        assert frame["signal"].tolist() == ["activation", "activation"]

    def test_what_was_not_counted_is_nan_in_the_frame(self) -> None:
        uncounted = Moments(numel=4, mean=0.0, m2=0.0, abs_max=0.0)
        frame = Recording(records=(make_record(moments=uncounted),)).to_frame()
        assert frame["zero_fraction"].isna().all()

    def test_repr_says_what_was_seen_and_what_was_not(self) -> None:
        recording = Recording(
            records=(make_record(), make_record(module="1"), make_record(signal="gradient")),
            meta={"model": "MLP"},
            unobserved=(Unobserved(module="head", reason="never called"),),
        )
        text = "<Recording of MLP: 1 draw, 2 activations, 1 gradients, 1 unobserved>"
        assert repr(recording) == text

    def test_repr_of_nothing(self) -> None:
        assert repr(Recording(records=())) == "<Recording of a model: 0 draws, nothing>"
