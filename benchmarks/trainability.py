"""How well the verdict at initialization predicts which nets train.

    python benchmarks/trainability.py            # ten minutes of CPU time
    python benchmarks/trainability.py --quick    # two minutes
    python benchmarks/trainability.py --held-out # 168 nets that no limit was set with
    python benchmarks/trainability.py --figure docs/images/trainability.png

276 small nets are judged on a batch of scikit-learn's digits, and then trained from the weights
that were judged. A net is *trainable* if it reaches 80 % training accuracy within 400 steps at two
of three learning rates, and *flagged* if its verdict is unhealthy. Recall is the share of
untrainable nets that are flagged, false alarms the share of trainable ones.

What was trained and judged is kept in two CSV files, and not done again as long as they are there:
without verdicts.csv all are judged anew, without another training.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from bundles import OPTIMIZERS, STEPS, draw_batches, train
from digit_nets import GRID, HELD_OUT_GRID, QUICK_GRID, Digits, Net, load_digits
from heat_map import PNG, draw_heat_map

import varprobe as vp
from tests.verdicts.scoring import bound_rate
from varprobe.theory.mean_field import solve_mean_field

RATES: Mapping[str, tuple[float, ...]] = {"SGD": (0.01, 0.03, 0.1), "Adam": (3e-4, 1e-3, 3e-3)}
"""A decade around what is usual."""

FOLDER = Path(tempfile.gettempdir()) / "varprobe-trainability"

NEEDED = 2
"""Learning rates of three that must reach the goal."""

XAVIER, HE = 1.0, 2.0**0.5

KEY = [field.name for field in dataclasses.fields(Net)]

Rows = list[dict[str, object]]


def train_nets(nets: Sequence[Net], digits: Digits, steps: int = STEPS) -> Rows:
    """Train nets that differ in gain only; return a row for each optimizer, net and rate."""
    rows: Rows = []
    for name, rates in RATES.items():
        models = [net.build() for net in nets for _ in rates]
        batches = draw_batches(digits, steps)
        runs = train(models, rates * len(nets), OPTIMIZERS[name](), batches)
        for (net, rate), run in zip(itertools.product(nets, rates), runs, strict=True):
            setting = {**dataclasses.asdict(net), "optimizer": name, "rate": rate}
            rows.append({**setting, **run._asdict()})
    return rows


def judge_nets(nets: Sequence[Net], digits: Digits) -> Rows:
    """Judge nets on the first batch that they will be trained on; return a row for each."""
    [batch] = draw_batches(digits, 1)
    rows: Rows = []
    for net in nets:
        diagnosis = vp.check(net.build(), batch.images)
        errors = {finding.code for finding in diagnosis.all_findings if finding.level == "error"}
        verdict = {"healthy": diagnosis.healthy, "codes": " ".join(sorted(errors))}
        rows.append({**dataclasses.asdict(net), **verdict})
    return rows


def fill(path: Path, nets: Iterable[Net], work: Callable[[list[Net]], Rows]) -> pd.DataFrame:
    """Return the rows of these nets, after working on those that the file lacks."""
    nets = list(nets)
    known = set(_read(path).index) if path.exists() else set()
    lacking = [net for net in nets if dataclasses.astuple(net) not in known]
    for _, bundle in itertools.groupby(lacking, lambda net: dataclasses.astuple(net)[:-1]):
        rows = pd.DataFrame(work(list(bundle)))
        rows.to_csv(path, mode="a", header=not path.exists(), index=False, na_rep="nan")
    return _read(path).loc[[dataclasses.astuple(net) for net in nets]]


def _read(path: Path) -> pd.DataFrame:
    # Gains are part of the key, hence exact; and no codes at all are not a missing number.
    as_written = {"converters": {"gain": float}, "keep_default_na": False, "na_values": ["nan"]}
    return pd.read_csv(path, **as_written).set_index(KEY).sort_index()


def join(training: pd.DataFrame, verdicts: pd.DataFrame, optimizer: str) -> pd.DataFrame:
    """Return a row for each net: its verdict, and how it trains with this optimizer.

    ``accuracy`` is the median over the learning rates, ``steps`` those of the quickest.
    """
    runs = training[training["optimizer"] == optimizer].groupby(KEY)
    reached = runs["steps"].count()
    trained = pd.DataFrame({"accuracy": runs["accuracy"].median(), "steps": runs["steps"].min()})
    trained = trained.assign(reached=reached, trainable=reached >= NEEDED)
    return verdicts.assign(flagged=~verdicts["healthy"]).join(trained)


def spell_rate(flagged: pd.Series) -> str:
    """Return how many are flagged, and the rate with its interval of Clopper and Pearson."""
    count, total = int(flagged.sum()), len(flagged)
    if not total:
        return "none"
    low, high = bound_rate(count, total)
    return f"{count} of {total}: {count / total:.2f} ({low:.2f}–{high:.2f})"


def tabulate_scores(nets: pd.DataFrame) -> Iterator[str]:
    """Yield recall and false alarms: over all nets, by other rules, and by kind."""
    yield "| nets | recall | false alarms |\n|---|---:|---:|"
    plain = nets.xs("plain", level="block", drop_level=False)
    sets = {
        "all": nets,
        "all, if one rate is enough": nets.assign(trainable=nets["reached"] >= 1),
        "all, if it takes three": nets.assign(trainable=nets["reached"] >= 3),
        "plain": plain,
        "plain, deeper than 6ξ in place of the verdict": plain.assign(flagged=is_too_deep(plain)),
    }
    kinds = nets.groupby(["block", "activation", "width"], sort=False)
    sets |= {f"{block}, {act}, {width}": kind for (block, act, width), kind in kinds}
    for name, chosen in sets.items():
        flagged, trainable = chosen["flagged"], chosen["trainable"]
        recall, alarms = spell_rate(flagged[~trainable]), spell_rate(flagged[trainable])
        yield f"| {name} | {recall} | {alarms} |"


def is_too_deep(plain: pd.DataFrame) -> list[bool]:
    """Tell which plain nets have more layers than theory lets gradients live on.

    Schoenholz et al. 2017 find that nets train up to 6 depth scales.
    """
    return [
        depth > 6 * solve_mean_field(activation, sigma_w2=gain**2).xi_gradient
        for _, activation, _, depth, gain in plain.index
    ]


def tabulate_codes(nets: pd.DataFrame) -> Iterator[str]:
    """Yield how often each check was right, and where it alone raised a false alarm."""
    yield "| check | flags untrainable | flags trainable | alone | kinds of these |"
    yield "|---|---:|---:|---:|---|"
    codes = nets["codes"].str.split()
    for code in sorted(set(codes.explode().dropna())):
        hit = codes.map(lambda found, code=code: code in found)
        false = nets[hit & nets["trainable"]]
        alone = int((false["codes"] == code).sum())
        right = int((hit & ~nets["trainable"]).sum())
        yield f"| {code} | {right} | {len(false)} | {alone} | {_count_kinds(false)} |"


def tabulate_misses(nets: pd.DataFrame) -> Iterator[str]:
    """Yield what the untrainable nets that were not flagged have in common."""
    yield "| missed | nets | depths | gains | accuracy |\n|---|---:|---|---|---|"
    missed = nets[~nets["trainable"] & ~nets["flagged"]]
    for kind, group in missed.groupby(["block", "activation", "width"], sort=False):
        spans = [_span(group.index.get_level_values(level)) for level in ("depth", "gain")]
        cells = [", ".join(map(str, kind)), str(len(group)), *spans, _span(group["accuracy"])]
        yield f"| {' | '.join(cells)} |"


def tabulate_starts(nets: pd.DataFrame) -> Iterator[str]:
    """Yield the steps that ReLU nets need with Xavier's gain, and with He's."""
    plain = nets.xs(("plain", "relu"), level=("block", "activation"))["steps"].unstack("gain")
    if not {XAVIER, HE} <= set(plain.columns):
        return
    yield "| ReLU layers × width | Xavier | He |\n|---|---:|---:|"
    for (width, depth), steps in plain[[XAVIER, HE]].iterrows():
        spelled = ("never" if pd.isna(count) else f"{count:.0f}" for count in steps)
        yield f"| {depth} × {width} | {' | '.join(spelled)} |"


def _count_kinds(nets: pd.DataFrame) -> str:
    counts = nets.groupby(["block", "activation"], sort=False).size()
    return ", ".join(f"{block} {act} {count}" for (block, act), count in counts.items())


def _span(values: Iterable[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"{low:.3g}–{high:.3g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, judge, and print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    grids = parser.add_mutually_exclusive_group()
    for name, grid, help_ in (
        ("--quick", QUICK_GRID, "fewer nets: two minutes"),
        ("--held-out", HELD_OUT_GRID, "other nets, of which no limit knows"),
    ):
        grids.add_argument(name, dest="grid", action="store_const", const=grid, help=help_)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where results are kept")
    parser.add_argument("--figure", type=Path, help="draw the heat map there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    digits, grid = load_digits(), options.grid or GRID
    options.folder.mkdir(parents=True, exist_ok=True)
    training = fill(options.folder / "training.csv", grid, lambda n: train_nets(n, digits))
    verdicts = fill(options.folder / "verdicts.csv", grid, lambda n: judge_nets(n, digits))
    for optimizer in RATES:
        nets = join(training, verdicts, optimizer)
        for tabulate in (tabulate_scores, tabulate_codes, tabulate_misses, tabulate_starts):
            if lines := list(tabulate(nets)):
                print(f"\n{optimizer}", *lines, sep="\n")
    if options.figure:
        draw_heat_map(join(training, verdicts, "SGD")).savefig(options.figure, **PNG)


if __name__ == "__main__":
    main()
