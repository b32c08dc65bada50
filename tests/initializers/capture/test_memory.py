"""What is known of a storage, against a tensor of labels that is really written to."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings, strategies as st

from varprobe.initializers.capture import memory as memory_module
from varprobe.initializers.capture.elements import constant, normal
from varprobe.initializers.capture.memory import Lost, Memory, Patch, combine

VIEWS = (
    lambda x: x,
    lambda x: x[1],
    lambda x: x[:, 2:4],
    lambda x: x[::2],
    lambda x: x.t()[1:3],
    lambda x: x.view(-1)[5:17],
    lambda x: x[:0],
    lambda x: x.view(2, 3, 4)[:, 1],
)


@given(st.lists(st.sampled_from(VIEWS), max_size=6), st.sampled_from(VIEWS))
@settings(max_examples=80, deadline=None)
def test_a_view_sees_what_was_last_written_to_each_element(writes, look) -> None:
    tensor, contents = torch.full((6, 4), -1), [Lost("before")]
    memory = Memory(tensor.numel(), contents[0])
    for index, view in enumerate(writes):
        contents.append(normal(0.0, 1.0 + index, index))
        memory.write(view(tensor), Patch([contents[-1]]))
        view(tensor).fill_(index)
    expected = Counter(contents[label + 1] for label in look(tensor).flatten().tolist())
    if expected:
        assert Counter(dict(memory.count(look(tensor)))) == expected
    patch = memory.read(look(tensor))
    labels = torch.zeros((), dtype=torch.int64) if patch.labels is None else patch.labels
    if expected:
        seen = [patch.contents[i] for i in labels.expand(look(tensor).shape).flatten().tolist()]
        assert seen == [contents[label + 1] for label in look(tensor).flatten().tolist()]


def test_numbers_become_parts_when_something_is_drawn_beside_them() -> None:
    memory, view = Memory(6), torch.empty(2, 3)
    memory.keep(torch.arange(6.0).view(2, 3), view)
    drawn = normal(0.0, 1.0, 0)
    memory.write(view[1], Patch([drawn]))
    assert memory.numbers is None
    assert dict(memory.count(view[1])) == {drawn: 3}
    assert sorted(content.loc for content, _ in memory.count(view[0])) == [0.0, 1.0, 2.0]


def test_constants_are_numbers_that_can_be_written_to() -> None:
    memory = Memory(4, constant(2.0))
    memory.find_numbers(torch.float32)[1] = 5
    assert memory.find_numbers(torch.float32).tolist() == [2.0, 5.0, 2.0, 2.0]
    assert Memory(4, normal(0.0, 1.0, 0)).find_numbers(torch.float32) is None
    assert Memory(0).find_numbers(torch.float32).numel() == 0


def test_what_is_too_large_to_follow_is_lost_and_says_so(monkeypatch) -> None:
    monkeypatch.setattr(memory_module, "MOST_LABELS", 10)
    memory, view = Memory(24), torch.empty(6, 4)
    memory.write(view[:, 1], Patch([normal(0.0, 1.0, 0)]))
    ((content, _),) = memory.count(view)
    assert "written in parts" in content.reason
    parts = Patch([constant(1.0), constant(2.0)], torch.tensor([[0, 1]]))
    lost = combine([parts, Patch([constant(0.0)])], [torch.Size([1, 2]), torch.Size([6, 2])])
    assert all("too large" in patch.contents[0].reason for patch in lost)


def test_many_different_numbers_have_one_distribution(monkeypatch) -> None:
    monkeypatch.setattr(memory_module, "MOST_DISTINCT", 3)
    memory, view = Memory(6), torch.empty(6)
    memory.keep(torch.arange(6.0), view)
    assert memory.read(view).contents[0].form == "measured"
    memory.write(view[:1], Patch([normal(0.0, 1.0, 0)]))
    assert any(
        isinstance(content, Lost) and "beside many" in content.reason
        for content, _ in memory.count(view)
    )


def test_patches_are_combined_element_by_element() -> None:
    values = [constant(float(i)) for i in range(5)]
    rows = Patch(values[:2], torch.tensor([[0], [1]]))
    columns = Patch(values[2:], torch.tensor([[0, 1, 2]]))
    first, second = combine([rows, columns], [torch.Size([2, 1]), torch.Size([1, 3])])
    assert torch.equal(first.labels, second.labels)
    pairs = list(zip(first.contents, second.contents, strict=True))
    assert [[pairs[i] for i in row] for row in first.labels.tolist()] == [
        [(values[i], values[2 + j]) for j in range(3)] for i in range(2)
    ]


@pytest.mark.parametrize("reason", ["one", "another"])
def test_two_losses_are_two(reason) -> None:
    assert Lost("one") != Lost(reason)
