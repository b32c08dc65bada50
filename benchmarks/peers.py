"""How often other checkers are right on the cases that varprobe is scored on.

    python benchmarks/peers.py --peer torchlens              # 10 seeds of 130 cases
    python benchmarks/peers.py --peer torchmortem --seeds 3

None of them is needed by anything else here. Each wants an environment of its own, beside varprobe
and the constraints of this repository, which keep torch's CPU build::

    python -m venv /tmp/peer
    /tmp/peer/bin/pip install --constraint constraints.txt --editable . torchlens==2.36.1
    /tmp/peer/bin/python benchmarks/peers.py --peer torchlens

Measured with torchlens 2.36.1, torchdiag 0.1.0, traintools 0.6.2, torchmortem 0.1.1 and
pytest-torch 1.1.1. Each is called as its documentation calls it to ask whether gradients flow and
units live, with its own defaults; where it can be asked in several ways, each is a row. All get the
same fresh model, batch and loss: the case's own, or else cross-entropy over random classes. What
raises is no verdict: it is counted apart, with the reason.
"""

from __future__ import annotations

import argparse
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from verdicts import SETS

import varprobe as vp
from tests.verdicts.case import Case
from varprobe.modules import walk_tensors

Loss = Callable[[Any], torch.Tensor]
Judge = Callable[[nn.Module, Any, Loss], bool]
"""Tells whether a checker complains of a model, its batch and its loss, which it may train."""

STEPS = 20
"""Steps that a checker of training runs is shown: what the longest of its detectors waits for."""


def classify(output: Any) -> torch.Tensor:
    """Return the loss of a classifier whose classes were drawn by lot, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _, tensor in walk_tensors(output):
        scores = tensor.flatten(0, -2).float()
        rows, classes = scores.shape
        if classes == 1:  # cross-entropy would be 0 whatever the score
            losses.append(F.mse_loss(scores, torch.randn(rows, 1, generator=generator)))
        else:
            drawn = torch.randint(classes, (rows,), generator=generator)
            losses.append(F.cross_entropy(scores, drawn))
    return torch.stack(losses).sum()


def ask_varprobe(model: nn.Module, batch: Any, loss: Loss) -> bool:
    """Return whether a finding is an error; no check of an error looks at a prediction."""
    return not vp.diagnose(vp.analyze(vp.profile(model, batch, loss=loss))).healthy


def ask_torchlens_audit(model: nn.Module, batch: Any, loss: Loss) -> bool:
    """Return whether the audit of a trace has a finding beyond "info"."""
    trace = _trace(model, batch, loss)
    return any(finding.severity != "info" for finding in trace.audit().findings)


def ask_torchlens_flow(model: nn.Module, batch: Any, loss: Loss) -> bool:
    """Return whether the gradient of some operation is called dead, vanishing or exploding."""
    import torchlens

    frame = torchlens.debug.gradient_flow_audit(_trace(model, batch, loss))
    return bool((frame["severity"] > 0).any())


def _trace(model: nn.Module, batch: Any, loss: Loss) -> Any:
    import torchlens

    options = torchlens.options.CaptureOptions(save_grads=True, unwrap_when_done=True)
    trace = torchlens.trace(model, batch, capture=options)
    outputs = [trace[label].out for label in trace.output_layers]
    trace.log_backward(loss(outputs if len(outputs) > 1 else outputs[0]))
    return trace


def ask_torchdiag_gradients(model: nn.Module, batch: Any, loss: Loss) -> bool:
    """Return whether the gradients have an issue."""
    import torchdiag

    loss(model(batch)).backward()
    return _has_issues(lambda: torchdiag.check_gradients(model))


def ask_torchdiag(model: nn.Module, batch: Any, loss: Loss) -> bool:
    """Return whether gradients, units or a training step have an issue."""
    import torchdiag

    def verify() -> object:
        optimizer = torch.optim.Adam(model.parameters())
        return torchdiag.verify_step(model, optimizer, lambda y, _: loss(y), batch, None)

    gradients = ask_torchdiag_gradients(model, batch, loss)
    units = _has_issues(lambda: torchdiag.check_dead_neurons(model, batch))
    return gradients or units or _has_issues(verify)


def _has_issues(command: Callable[[], object]) -> bool:
    # Its verdict is what it prints: what it returns are the numbers.
    with redirect_stdout(io.StringIO()) as printed:
        command()
    return "ISSUES FOUND" in printed.getvalue()


def ask_traintools_gradients(model: nn.Module, batch: Any, loss: Loss) -> bool:
    """Return whether the monitor warns of the gradients."""
    import traintools

    loss(model(batch)).backward()
    return not traintools.GradientHealthMonitor().inspect(model).ok


def ask_traintools(model: nn.Module, batch: Any, loss: Loss) -> bool:
    """Return whether the monitor warns of the gradients, or the probe calls a layer critical."""
    import traintools

    probe = traintools.PlasticityProbe(model)
    gradients = ask_traintools_gradients(model, batch, loss)
    return gradients or bool(probe.measure().critical_layers)


def ask_torchmortem(model: nn.Module, batch: Any, loss: Loss) -> bool:
    """Return whether the autopsy of some steps of SGD has a critical finding."""
    import torchmortem

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    with torchmortem.Autopsy(model, optimizer=optimizer) as autopsy:
        for _ in range(STEPS):
            optimizer.zero_grad()
            value = loss(model(batch))
            value.backward()
            optimizer.step()
            autopsy.step(loss=value.item())
    return any(f.severity.name == "CRITICAL" for f in autopsy.get_report().findings)


def ask_pytest_torch_gradients(model: nn.Module, batch: Any, loss: Loss) -> bool:
    """Return whether an assertion about gradients fails."""
    import pytest_torch

    checks = pytest_torch.assert_gradients_finite, pytest_torch.assert_all_params_receive_grad
    return any(_fails(check, model, batch, loss) for check in checks)


def ask_pytest_torch(model: nn.Module, batch: Any, loss: Loss) -> bool:
    """Return whether one of the assertions fails that a `ModelSuite` makes of training."""
    import pytest_torch

    checks = pytest_torch.assert_loss_decreases, pytest_torch.assert_overfits_one_batch
    return ask_pytest_torch_gradients(model, batch, loss) or any(
        _fails(check, model, batch, loss) for check in checks
    )


def _fails(check: Callable[..., object], *arguments: object) -> bool:
    try:
        check(*arguments)
    except AssertionError:
        return True
    return False


PEERS: dict[str, dict[str, Judge]] = {
    "varprobe": {"profile, analyze, diagnose": ask_varprobe},
    "torchlens": {"audit": ask_torchlens_audit, "gradient_flow_audit": ask_torchlens_flow},
    "torchdiag": {
        "check_gradients": ask_torchdiag_gradients,
        "check_gradients, check_dead_neurons, verify_step": ask_torchdiag,
    },
    "traintools": {
        "GradientHealthMonitor": ask_traintools_gradients,
        "GradientHealthMonitor, PlasticityProbe": ask_traintools,
    },
    "torchmortem": {f"Autopsy of {STEPS} steps, critical": ask_torchmortem},
    "pytest-torch": {
        "gradients finite, received": ask_pytest_torch_gradients,
        "ModelSuite, training": ask_pytest_torch,
    },
}
"""The adapters by the distribution that they need, and by what they call of it."""


class Score(NamedTuple):
    """How often a checker complained, of how many cases that it judged, and what it refused."""

    flagged: int
    judged: int
    refused: Mapping[str, str]
    """The reason of each case that it raised on, by the case's name."""


Verdicts = Mapping[str, Sequence[bool | Exception]]
"""Whether a checker complained, or what it raised, by case and seed."""


def collect(cases: Mapping[str, Case], judge: Judge, seeds: Sequence[int]) -> Verdicts:
    """Let a checker judge every case on every seed."""
    return {name: [_judge(case, judge, seed) for seed in seeds] for name, case in cases.items()}


def _judge(case: Case, judge: Judge, seed: int) -> bool | Exception:
    model, batch = case.make(seed)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        try:
            return judge(model, batch, case.loss or classify)
        except Exception as error:
            return error


def count(verdicts: Verdicts) -> Score:
    """Count what was flagged, of what was judged."""
    judged = [v for row in verdicts.values() for v in row if isinstance(v, bool)]
    refused = {
        name: f"{type(error).__name__}: {error}".splitlines()[0]
        for name, row in verdicts.items()
        for error in row
        if isinstance(error, Exception)
    }
    return Score(sum(judged), len(judged), refused)


def list_rows(title: str, judge: Judge, seeds: Sequence[int]) -> Iterator[str]:
    """Yield a row of the table for each set of cases, and below what was refused."""
    every = [collect(cases, judge, seeds) for cases in SETS["all"]]
    for name in ("published", "all"):
        caught, false = (
            count({case: verdicts[case] for case in cases})
            for verdicts, cases in zip(every, SETS[name], strict=True)
        )
        yield (
            f"| {title} | {name} | {caught.flagged} of {caught.judged} | "
            f"{false.flagged} of {false.judged} | {len(caught.refused) + len(false.refused)} |"
        )
    for verdicts in every:
        for case, reason in count(verdicts).refused.items():
            yield f"  refused {case}: {reason}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of one checker."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", choices=PEERS, default="varprobe", help="by default varprobe")
    parser.add_argument("--seeds", type=int, default=10, help="by default 10")
    options = parser.parse_args(arguments)
    try:
        version = metadata.version(options.peer)
    except metadata.PackageNotFoundError:
        parser.error(
            f"{options.peer} is not installed here. Give it an environment of its own, as the "
            "first lines of benchmarks/peers.py say."
        )
    torch.set_num_threads(1)
    print(f"{options.peer} {version}, torch {torch.__version__}, {options.seeds} seeds")
    print("| asked | cases | caught | false alarms | refused |\n|---|---|---:|---:|---:|")
    for asked, judge in PEERS[options.peer].items():
        for line in list_rows(asked, judge, range(options.seeds)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
