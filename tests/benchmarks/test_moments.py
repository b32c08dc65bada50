from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks import moments


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_table_has_a_line_for_each_tensor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(moments, "SIZES", (10, 3000))
    moments.main(["--quick"])
    machine, _, *table = capsys.readouterr().out.splitlines()
    assert f"torch {torch.__version__}" in machine
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert rows[0] == ["tensor", "sum", *moments.TITLES]
    assert [row[0] for row in rows[2:4]] == ["10 float32", "3,000 float32"]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert all(float(cell) > 0 for row in rows[2:] for cell in row[2:])


def test_tasks_take_turns() -> None:
    order: list[str] = []
    tasks = {name: lambda name=name: order.append(name) for name in ("sum", "full")}
    assert list(moments.alternate(tasks, rounds=2)) == ["sum", "full"]
    assert order == ["sum", "full", "sum", "full"]
