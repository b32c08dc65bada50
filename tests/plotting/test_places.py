from __future__ import annotations

import pytest

from tests.plotting.samples import make_expectation, make_prediction, make_record, make_weight
from varprobe.errors import InvalidArgumentError, NothingRecordedError, UnknownNameError
from varprobe.plotting.places import find_places, find_run, find_signals, find_step
from varprobe.recording import Record, Recording


def record_all(*records: Record) -> Recording:
    return Recording(records=records)


@pytest.fixture
def nested() -> Recording:
    """A root that holds a block of two modules, the second one of which is called twice."""
    return record_all(
        make_weight("block.linear"),
        make_record("block.linear", 1.0, depth=0),
        make_record("block.relu", 1.0, depth=1),
        make_record("block.relu", 1.0, depth=2, call=1),
        make_record("block", 1.0, depth=3),
        make_record("", 1.0, depth=4),
        make_record("block.linear", 1.0, depth=0, signal="gradient"),
    )


def name(recording: Recording, modules: object) -> list[str]:
    return [str(site) for site in find_places([recording], modules).sites]


def test_weighted_layers_are_those_with_a_fan_in(nested: Recording) -> None:
    assert name(nested, "weighted") == ["block.linear"]


def test_leaves_leave_containers_and_the_root_out(nested: Recording) -> None:
    assert name(nested, "leaves") == ["block.linear", "block.relu", "block.relu@1"]


def test_containers_are_drawn_when_they_are_named(nested: Recording) -> None:
    assert name(nested, ["block", "block.linear"]) == ["block.linear", "block"]


def test_a_root_without_children_is_a_leaf() -> None:
    assert name(record_all(make_record("", 1.0)), "leaves") == ["(root)"]


def test_a_module_whose_children_were_not_called_is_a_leaf() -> None:
    recording = record_all(make_weight("attention.out"), make_record("attention", 1.0))
    assert name(recording, "leaves") == ["attention"]


def test_without_weighted_layers_all_leaves_are_drawn() -> None:
    places = find_places([record_all(make_record("a.relu", 1.0))], "weighted")
    assert [str(site) for site in places.sites] == ["a.relu"]
    assert places.meaning == "leaf modules"


def test_each_output_is_a_place() -> None:
    lstm = record_all(make_record("lstm", 1.0, output="0"), make_record("lstm", 1.0, output="1.0"))
    assert name(lstm, "leaves") == ["lstm.0", "lstm.1.0"]


def test_places_are_in_order_of_execution_and_pooled_over_recordings() -> None:
    first = record_all(make_record("late", 1.0, depth=2))
    second = record_all(make_record("early", 1.0, depth=1), make_record("late", 1.0, depth=2))
    places = find_places([first, second], "leaves")
    assert [str(site) for site in places.sites] == ["early", "late"]


def test_a_prediction_knows_weighted_layers_by_the_name_of_their_class() -> None:
    rows = [
        make_expectation("conv", 1.0, 0.1, kind="Conv2d", depth=0),
        make_expectation("norm", 1.0, 0.1, kind="BatchNorm2d", depth=1),
    ]
    places = find_places([make_prediction(*rows)], "weighted")
    assert [str(site) for site in places.sites] == ["conv"]


def test_unknown_modules_are_suggested(nested: Recording) -> None:
    with pytest.raises(UnknownNameError, match=r"'block.rely'. Did you mean 'block.relu'"):
        find_places([nested], ["block.rely"])


def test_an_unknown_choice_is_suggested(nested: Recording) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'leaves'"):
        find_places([nested], "leafs")


def test_nothing_along_the_depth_is_an_error() -> None:
    with pytest.raises(NothingRecordedError, match="VP001: there are neither activations nor"):
        find_places([record_all(make_weight("a"))], "weighted")


def test_signals_that_were_not_recorded_are_left_out() -> None:
    forward_only = record_all(make_record("a", 1.0))
    assert find_signals([forward_only], ("activation", "gradient")) == ("activation",)


def test_a_signal_may_be_given_by_itself(nested: Recording) -> None:
    assert find_signals([nested], "gradient") == ("gradient",)


def test_no_asked_signal_is_an_error() -> None:
    with pytest.raises(NothingRecordedError, match="no gradient was recorded, only activation"):
        find_signals([record_all(make_record("a", 1.0))], ["gradient"])


def test_signals_that_have_no_depth_are_unknown(nested: Recording) -> None:
    with pytest.raises(UnknownNameError, match=r"no signal over depth named 'gradients'. Did you"):
        find_signals([nested], ["gradients"])


def test_the_only_run_needs_no_name() -> None:
    assert find_run(record_all(make_record("a", 1.0, run="one")), None) == "one"


def test_several_runs_need_a_name() -> None:
    both = record_all(make_record("a", 1.0, run="he"), make_record("a", 1.0, run="glorot"))
    assert find_run(both, "glorot") == "glorot"
    with pytest.raises(InvalidArgumentError, match=r"2 runs \(he, glorot\).*run='he'.*plot_comp"):
        find_run(both, None)


def test_an_unknown_run_is_suggested() -> None:
    with pytest.raises(UnknownNameError, match=r"no run named 'kaming'. Did you mean 'kaiming'"):
        find_run(record_all(make_record("a", 1.0, run="kaiming")), "kaming")


def test_the_first_step_is_the_default() -> None:
    recording = record_all(make_record("a", 1.0, step=7), make_record("a", 1.0, step=3))
    assert find_step(recording, None) == 3
    assert find_step(recording, 7) == 7
    with pytest.raises(InvalidArgumentError, match=r"at step 5. Steps: 3, 7"):
        find_step(recording, 5)
