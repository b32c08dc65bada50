"""Filters: what they leave is recorded as without them, the rest has no hook."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.probe.scenario import mlp, score
from tests.probe.test_scenarios import SCENARIOS
from tests.probe.untouched import describe_model, describe_run
from varprobe import (
    InvalidArgumentError,
    Monitor,
    NothingRecordedError,
    Probe,
    Recording,
    UnknownNameError,
    analyze,
    check,
    diagnose,
    is_container,
    is_leaf,
    profile,
)

ALL = ("activation", "gradient", "weight", "weight_gradient")


class Block(nn.Module):
    def __init__(self, *, again: bool = False) -> None:
        super().__init__()
        self.norm, self.act, self.again = nn.LayerNorm(6), nn.ReLU(), again
        self.linear = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.linear(self.act(self.norm(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.run, x, use_reentrant=False) if self.again else self.run(x)


class Net(nn.Module):
    """Blocks in a list, the first of them twice in a forward, and a name of its own for one."""

    def __init__(self, *, again: bool = False) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.blocks = nn.ModuleList(Block(again=again) for _ in range(2))
        self.tied = self.blocks[0].linear
        self.spare = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks[0](self.stem(x))
        return self.blocks[1](self.blocks[0](x))


BLOCKS = [f"blocks.{i}" for i in range(2)]
LEAVES = ["stem", *(f"{b}.{part}" for b in BLOCKS for part in ("norm", "act", "linear"))]


def record(model: nn.Module, **options: object) -> Recording:
    torch.manual_seed(1)
    with Probe(model, signals=ALL, **options) as probe:
        score(model(torch.randn(5, 6))).backward()
    return probe.recording


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"include": ""}, {""}),
        ({"include": "*"}, {"", *BLOCKS, *LEAVES}),
        ({"include": "blocks.?"}, {*BLOCKS}),
        ({"include": "blocks.0.*"}, {f"blocks.0.{p}" for p in ("norm", "act", "linear")}),
        ({"include": ["stem", "*.act"]}, {"stem", "blocks.0.act", "blocks.1.act"}),
        ({"include": "tied"}, {"blocks.0.linear"}),
        ({"include": nn.ReLU}, {"blocks.0.act", "blocks.1.act"}),
        ({"include": (nn.ReLU, "", lambda name, _: name == "stem")}, {*"", "", "stem"} | {
            "blocks.0.act", "blocks.1.act"}),
        ({"include": is_leaf}, {*LEAVES}),
        ({"include": is_container}, {"", *BLOCKS}),
        ({"exclude": is_leaf}, {"", *BLOCKS}),
        ({"exclude": ("blocks.*", "")}, {"stem"}),
        ({"include": Block, "exclude": "blocks.1"}, {"blocks.0"}),
        ({"include": lambda _, module: isinstance(module, nn.LayerNorm)},
         {"blocks.0.norm", "blocks.1.norm"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("again", [False, True])
def test_what_is_left_is_recorded_as_without_filters(options, expected, again) -> None:
    model = Net(again=again)
    everything = record(copy.deepcopy(model))
    found = record(model, **options)
    assert {r.site.module for r in found.select(signal="activation")} == expected
    twins = {(r.site, r.backward): r for r in everything if r.site.module in expected}
    records = {(r.site, r.backward): r for r in found}
    assert records.keys() == twins.keys()
    for key, twin in twins.items():
        assert records[key].moments == twin.moments
        assert (records[key].shape, records[key].fan_in) == (twin.shape, twin.fan_in)
    order = sorted(found, key=lambda r: twins[r.site, r.backward].depth)
    assert [r.site for r in order] == [r.site for r in found]


class TestNoHook:
    def test_what_is_left_out_has_none(self) -> None:
        model = Net()
        with Probe(model, include="stem"):
            hooked = {name for name, m in model.named_modules() if m._forward_hooks}
            before = {name for name, m in model.named_modules() if m._forward_pre_hooks}
            score(model(torch.randn(5, 6))).backward()
        assert hooked == {"stem"}
        assert before == {""}

    @pytest.mark.parametrize("name", SCENARIOS)
    def test_the_run_is_bitwise_the_bare_one(self, name) -> None:
        def build():
            torch.manual_seed(0)
            return SCENARIOS[name]()

        bare, probed = build(), build()
        expected = describe_run(bare.model, bare.drive)

        def drive() -> object:
            # In the scenarios, this leaves some modules of each model and not all.
            with Probe(probed.model, signals=ALL, exclude=lambda name, _: len(name) % 2 == 1):
                return probed.drive()

        assert describe_run(probed.model, drive) == expected

    @pytest.mark.parametrize("option", ["include", "exclude"])
    def test_an_exception_in_a_predicate_leaves_nothing_behind(self, option) -> None:
        model, asked = Net(), []

        def refuse(name: str, module: nn.Module) -> bool:
            asked.append(name)
            if len(asked) > 2:
                raise ZeroDivisionError
            return False

        before = describe_model(model)
        for build in (Probe, Monitor, lambda m, **o: profile(m, torch.randn(5, 6), **o)):
            asked.clear()
            with pytest.raises(ZeroDivisionError):
                build(model, **{option: refuse})
            assert describe_model(model) == before

    def test_a_predicate_is_asked_once_for_each_module(self) -> None:
        asked = []
        record(Net(), include=lambda name, module: not asked.append(name))
        assert len(asked) == len(set(asked))


class TestBooks:
    def test_one_line_tells_what_was_left_out(self) -> None:
        recording = record(Net(), include=["stem", "*.act"])
        assert [str(line) for line in recording.unobserved] == [
            "(root): 8 modules were left out by include=('stem', '*.act'); operations between "
            "modules cannot be told from what these do"
        ]
        assert recording.meta["filters"] == {
            "include": ["stem", "*.act"],
            "exclude": [],
            "left_out": 8,
            "parameters": 42,
        }
        recording.save("/dev/null")

    def test_functions_of_ones_own_are_named(self) -> None:
        recording = record(Net(), exclude=is_container)
        assert "left out by exclude='is_container'" in str(recording.unobserved[0])

    def test_without_filters_nothing_is_said_of_them(self) -> None:
        assert "filters" not in record(Net()).meta

    def test_filters_that_leave_nothing_out_say_so(self) -> None:
        recording = record(mlp(), include="*")
        assert recording.unobserved == ()
        assert recording.meta["filters"]["left_out"] == 0

    def test_what_was_asked_for_and_is_never_called_is_listed(self) -> None:
        recording = record(Net(), include=("stem", "spare"))
        assert any(str(line) == "spare: never called" for line in recording.unobserved)

    def test_a_shared_weight_goes_to_the_first_that_is_watched(self) -> None:
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
        model[1].weight = model[0].weight
        sites = [str(r.site) for r in record(model, include="1").select(signal="weight")]
        assert sites == ["1.weight", "1.bias"]

    def test_weights_alone(self) -> None:
        model = Net()
        with Probe(model, signals=("weight",), include="stem") as probe:
            model(torch.randn(5, 6))
        assert [str(r.site) for r in probe.recording] == ["stem.weight", "stem.bias"]

    def test_recordings_of_two_halves_merge_to_the_whole(self) -> None:
        model = Net()
        x, signals = torch.randn(5, 6), ("activation",)
        with (
            Probe(model, signals=signals, include=is_leaf) as first,
            Probe(model, signals=signals, exclude=is_leaf) as second,
            Probe(model, signals=signals) as whole,
        ):
            model(x)
        merged = first.recording.merge(second.recording)
        assert {r.site: r.moments for r in merged} == {r.site: r.moments for r in whole.recording}

    def test_lazy_modules_are_of_the_class_that_they_become(self) -> None:
        model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
        recording = record(model, include=nn.Linear, exclude="2")
        assert [str(r.site) for r in recording.select(signal="weight")] == ["0.weight", "0.bias"]


class TestMistakes:
    @pytest.mark.parametrize("option", ["include", "exclude"])
    @pytest.mark.parametrize(
        ("pattern", "error", "message"),
        [
            ("stm", UnknownNameError, "no module named 'stm'. Did you mean 'stem'"),
            (["stem", "blocks.7.*"], UnknownNameError, "no module named 'blocks.7.*'"),
            ("ReLU", InvalidArgumentError, r"Give the class itself: torch\.nn\.modules\.activ"),
            ("blocks", InvalidArgumentError, r'Its parts are "blocks\.\*"'),
            (7, InvalidArgumentError, "int is no filter: give a pattern"),
            (nn.ReLU(), InvalidArgumentError, "ReLU is no filter"),
            (int, InvalidArgumentError, "int is no filter"),
        ],
    )  # fmt: skip
    def test_they_are_told_before_the_run(self, option, pattern, error, message) -> None:
        model = Net()
        before = describe_model(model)
        for build in (Probe, Monitor, lambda m, **o: profile(m, torch.randn(5, 6), **o)):
            with pytest.raises(error, match=message):
                build(model, **{option: pattern})
        assert describe_model(model) == before

    @pytest.mark.parametrize(
        "options",
        [
            {"include": nn.Conv2d},
            {"include": ()},
            {"exclude": "*"},
            {"include": "stem", "exclude": nn.Linear},
            {"include": lambda name, module: False},
        ],
    )
    def test_nothing_left_is_an_error_before_the_run(self, options) -> None:
        with pytest.raises(InvalidArgumentError, match="leave out all 11"):
            Probe(Net(), **options)

    def test_a_large_model_is_not_listed_whole(self) -> None:
        model = nn.Sequential(*(nn.Identity() for _ in range(300)))
        with pytest.raises(UnknownNameError, match=r"and 251 more\.$"):
            Probe(model, include="x")

    def test_what_was_left_and_never_called_is_no_pass(self) -> None:
        model = Net()
        with Probe(model, include="spare") as probe:
            model(torch.randn(5, 6))
        with pytest.raises(NothingRecordedError, match=r"VP001: .* the modules that the filters"):
            _ = probe.recording

    def test_outputs_without_weights_are_not_judged_healthy(self) -> None:
        verdict = check(mlp(), torch.randn(32, 6), include=nn.ReLU)
        assert [finding.code for finding in verdict.findings] == ["VP001"]
        assert check(mlp(), torch.randn(32, 6), include=nn.Linear).healthy
        parametrized = record(Net(), include="blocks.0.linear")
        assert diagnose(analyze(parametrized)).healthy


def test_a_monitor_watches_what_is_asked_for() -> None:
    model = Net()
    with Monitor(model, every=1, include=nn.ReLU, exclude="blocks.1.*") as monitor:
        for _ in range(2):
            score(model(torch.randn(5, 6))).backward()
    found = [(r.step, str(r.site)) for r in monitor.recording.select(signal="gradient")]
    assert found == [(s, f"blocks.0.act{call}") for s in (0, 1) for call in ("", "@1")]


def test_a_copy_made_meanwhile_is_inert() -> None:
    model = Net()
    with Probe(model, include="*.act") as probe:
        twin = copy.deepcopy(model)
        model(torch.randn(5, 6))
        recording = probe.recording
        twin(torch.randn(5, 6))
        assert probe.recording == recording
