from __future__ import annotations

import pytest
import verdicts

FEW = {
    "relu_3_default",
    "relu_30_zeros",
    "a list in between",
    "two towers",
    "squared relu",
    "five tasks",
}


def test_the_tables_are_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, sets in verdicts.SETS.items():
        few = tuple({n: case for n, case in cases.items() if n in FEW} for cases in sets)
        monkeypatch.setitem(verdicts.SETS, name, few)
    monkeypatch.setattr(verdicts, "DEEDS", ["zero"])
    verdicts.print_sets(range(1))
    verdicts.print_sabotage(range(1))
    verdicts.print_alarms(1)
    printed = capsys.readouterr().out
    assert "| published | 1 | 1 of 1 | 1 | 0 of 1 |" in printed
    assert "| unseen | 1 | 1 of 1 | 1 | 0 of 1 |" in printed
    assert "named: 4 of 4 (100.0%)" in printed
    assert "false alarms: 0 of 1 seeds" in printed
