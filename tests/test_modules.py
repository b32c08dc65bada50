from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations

import varprobe as vp
from tests.reference.fans import count_fans
from varprobe.modules import (
    MAX_NESTING,
    compute_fans,
    is_lazy,
    name_modules,
    own_parameters,
    split_inputs,
    walk_tensors,
)

A, B, C = (torch.full((1,), float(index)) for index in range(3))


class TestNames:
    def test_the_names_are_those_of_torch(self) -> None:
        model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU()))
        names = {module: known.name for module, known in name_modules(model).items()}
        assert names == {module: name for name, module in model.named_modules()}
        assert list(names.values()) == ["", "0", "1", "1.0"]

    def test_a_shared_module_has_its_first_name_and_aliases(self) -> None:
        shared = nn.ReLU()
        model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared), "c": shared})
        assert name_modules(model)[shared].name == "a"
        assert name_modules(model)[shared].aliases == ("b.0", "c")

    def test_parametrizations_are_no_part_of_the_dataflow(self) -> None:
        model = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)))
        assert [known.name for known in name_modules(model).values()] == ["", "0"]

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda model: torch.compile(model, backend="eager"),
            nn.DataParallel,
            checkpoint_wrapper,
            lambda model: checkpoint_wrapper(torch.compile(model, backend="eager")),
        ],
    )
    def test_a_wrapper_does_not_show(self, wrap) -> None:
        model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
        assert name_modules(wrap(model)) == name_modules(model)
        outer, wrapped = nn.Sequential(model), nn.Sequential(wrap(model))
        names = [known.name for known in name_modules(outer).values()]
        assert [known.name for known in name_modules(wrapped).values()] == names
        assert list(name_modules(wrapped))[1] is model

    def test_a_users_own_module_named_module_keeps_its_name(self) -> None:
        model = nn.ModuleDict({"module": nn.ReLU()})
        assert [known.name for known in name_modules(model).values()] == ["", "module"]


class TestParameters:
    def test_each_once_with_the_first_owner(self) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.LazyLinear(2))
        model[1].weight = model[0].weight
        names = {module: known.name for module, known in name_modules(model).items()}
        found = [(names[owner], name) for owner, name, _ in own_parameters(names)]
        assert found == [("0", "weight"), ("0", "bias"), ("1", "bias")]
        assert [is_lazy(p) for p in model[2].parameters()] == [True, True]


class TestFans:
    @pytest.mark.parametrize(
        "layer",
        [
            nn.Linear(5, 7),
            nn.Conv1d(4, 6, 3),
            nn.Conv2d(4, 8, (3, 2), groups=2),
            nn.Conv3d(2, 4, 2, groups=2),
            nn.ConvTranspose1d(4, 6, 3),
            nn.ConvTranspose2d(4, 6, (3, 2), groups=2),
            nn.ConvTranspose3d(2, 4, 2),
        ],
    )
    def test_they_are_what_counting_gives(self, layer) -> None:
        assert compute_fans(layer) == count_fans(layer)

    @pytest.mark.parametrize("layer", [nn.ReLU(), nn.LayerNorm(3), nn.Embedding(3, 4)])
    def test_other_modules_have_none(self, layer) -> None:
        assert compute_fans(layer) is None


Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Answer:
    logits: torch.Tensor
    states: tuple[torch.Tensor, ...] = ()


class ModelOutput(OrderedDict):
    """As in transformers: a mapping without its empty fields, iterated by key."""


class TestWalk:
    @pytest.mark.parametrize(
        ("output", "paths"),
        [
            (A, {"": A}),
            ((A, [B, (C,)]), {"0": A, "1.0": B, "1.1.0": C}),
            ({"x": A, "y": {"z": B}, 3: C}, {"x": A, "y.z": B, "3": C}),
            (Pair(A, [B]), {"left": A, "right.0": B}),
            (Answer(A, (B, C)), {"logits": A, "states.0": B, "states.1": C}),
            (ModelOutput(logits=A, past=((B,),)), {"logits": A, "past.0.0": B}),
            ((None, "text", 3, {1, 2}, object(), Answer, A), {"6": A}),
            ((tensor for tensor in (A, B)), {}),
            ([], {}),
        ],
    )
    def test_tensors_have_the_path_to_them(self, output, paths) -> None:
        found = dict(walk_tensors(output))
        assert found.keys() == paths.keys()
        assert all(found[path] is paths[path] for path in paths)

    def test_a_packed_sequence_is_its_data(self) -> None:
        packed = nn.utils.rnn.pack_sequence([A, B])
        (pair,) = walk_tensors((packed, 1))
        assert pair[0] == "0.data"
        assert pair[1] is packed.data

    def test_a_generator_is_not_used_up(self) -> None:
        generator = (tensor for tensor in (A, B))
        list(walk_tensors({"g": generator}))
        assert next(generator) is A

    def test_cycles_and_abysses_end(self) -> None:
        cycle: list[object] = [A]
        cycle.append(cycle)
        assert [path for path, _ in walk_tensors(cycle)] == ["0"]
        abyss: object = A
        for _ in range(MAX_NESTING + 2):
            abyss = [abyss]
        assert list(walk_tensors(abyss)) == []

    def test_the_same_tensor_twice_is_two_places(self) -> None:
        assert [path for path, _ in walk_tensors((A, [A, A]))] == ["0", "1.0", "1.1"]


class TestInputs:
    @pytest.mark.parametrize(
        ("inputs", "kwargs", "expected"),
        [
            (A, None, ((A,), {})),
            ((A, B), {"c": C}, ((A, B), {"c": C})),
            ({"a": A}, None, ((), {"a": A})),
            ([A, B], None, (([A, B],), {})),
        ],
    )
    def test_they_become_arguments(self, inputs, kwargs, expected) -> None:
        assert split_inputs(inputs, kwargs) == expected

    def test_a_mapping_takes_no_further_keywords(self) -> None:
        with pytest.raises(TypeError, match="put the contents of kwargs"):
            split_inputs({"a": A}, {"b": B})


def test_outputs_of_the_walk_are_the_sites_of_the_root() -> None:
    class Many(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, object]:
            return {"a": (x, [x * 2]), "b": {"c": x * 3}}

    inputs = torch.randn(4, 8)
    recording = vp.profile(Many(), inputs)
    paths = [path for path, _ in walk_tensors(Many()(inputs))]
    assert [r.site.output for r in recording.select(signal="activation")] == paths
