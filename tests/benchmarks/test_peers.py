from __future__ import annotations

import peers
import pytest
import torch
from torch import nn

from tests.verdicts.case import Case, rows

CASES = {
    "wide": Case(lambda: nn.Linear(64, 32), rows()),
    "narrow": Case(lambda: nn.Linear(64, 1), rows()),
    "own loss": Case(lambda: nn.Linear(64, 8), rows(), torch.Tensor.sum),
}


def complain_of_width(model: nn.Module, batch: torch.Tensor, loss: peers.Loss) -> bool:
    if model.out_features == 1:
        raise ValueError("one unit\nis no layer")
    loss(model(batch)).backward()
    return model.weight.shape[0] > 8


def test_what_raises_is_no_verdict() -> None:
    counted = peers.count(peers.collect(CASES, complain_of_width, range(3)))
    assert counted == (3, 6, {"narrow": "ValueError: one unit"})


def test_a_table_has_a_row_for_each_set(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"own loss": CASES["own loss"]}
    monkeypatch.setattr(peers, "SETS", {"published": (own, own), "all": (own, CASES)})
    assert list(peers.list_rows("by width", complain_of_width, range(2))) == [
        "| by width | published | 0 of 2 | 0 of 2 | 0 |",
        "| by width | all | 0 of 2 | 2 of 4 | 1 |",
        "  refused narrow: ValueError: one unit",
    ]


def test_every_judge_gets_the_same_model_batch_loss_and_dice() -> None:
    seen: list[torch.Tensor] = []

    def look(model: nn.Module, batch: torch.Tensor, loss: peers.Loss) -> bool:
        with torch.no_grad():
            seen.append(torch.stack([loss(model(batch)), torch.rand(())]))
            model.weight.zero_()
        return False

    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    for _ in range(2):
        peers.collect(CASES, look, range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(torch.stack(seen[:6]), torch.stack(seen[6:]))


@pytest.mark.parametrize("shape", [(4, 10), (4, 3, 10), (4, 1)])
def test_the_loss_has_a_gradient_everywhere(shape: tuple[int, ...]) -> None:
    output = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    peers.classify([output]).backward()
    assert output.grad is not None
    assert (output.grad != 0).all()


def test_varprobe_is_judged_like_a_peer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    published = tuple(dict(list(cases.items())[:1]) for cases in peers.SETS["published"])
    monkeypatch.setattr(peers, "SETS", {"published": published, "all": published})
    peers.main(["--seeds", "1"])
    printed = capsys.readouterr().out
    assert printed.startswith("varprobe ")
    assert "| all | 1 of 1 | 0 of 1 | 0 |" in printed


def test_a_peer_that_is_missing_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(peers.PEERS, "no-such-checker", {"ask": complain_of_width})
    with pytest.raises(SystemExit, match="2"):
        peers.main(["--peer", "no-such-checker"])
    assert "no-such-checker is not installed here" in capsys.readouterr().err
