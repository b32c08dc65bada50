"""How often the verdict is right: faulty and healthy models, one broken layer, false alarms.

    python benchmarks/verdicts.py            # ten minutes or so: 10 seeds, 1,000 false alarms
    python benchmarks/verdicts.py --quick    # a minute: 2 seeds, 100 false alarms

*Published* are 13 faults and 13 healthy designs on which checkers have been compared; *all* has
these and more (`tests/verdicts`); *unseen* were written when the checks were done. Of the second
ten two were missed when they were first judged, and the checks have been mended since. A case
counts once for each seed. One broken layer is *named* if the findings about weights name it and no
other. No check looks at a prediction, and none is made.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch

from tests.verdicts import unseen, unseen_again
from tests.verdicts.case import Case
from tests.verdicts.cases import FAULTY, HEALTHY, PUBLISHED_FAULTY, PUBLISHED_HEALTHY
from tests.verdicts.sabotage import DEEDS, MODELS, commit
from tests.verdicts.scoring import add_up, bound_rate, count_alarms, score

SETS: dict[str, tuple[Mapping[str, Case], Mapping[str, Case]]] = {
    "published": (PUBLISHED_FAULTY, PUBLISHED_HEALTHY),
    "all": (FAULTY, HEALTHY),
    "unseen": (unseen.FAULTY, unseen.HEALTHY),
    "unseen again": (unseen_again.FAULTY, unseen_again.HEALTHY),
}


def print_sets(seeds: range) -> None:
    """Print a row for each set, and below the cases that were judged wrong."""
    print("| cases | faulty | caught | healthy | false alarms |\n|---|---:|---:|---:|---:|")
    everything = [{n: c for sets in SETS.values() for n, c in sets[i].items()} for i in (0, 1)]
    faulty_scores, healthy_scores = (score(cases, seeds, predict=False) for cases in everything)
    for name, (faulty, healthy) in SETS.items():
        faults = {case: faulty_scores[case] for case in faulty}
        alarms = {case: healthy_scores[case] for case in healthy}
        caught, false = add_up(faults), add_up(alarms)
        print(
            f"| {name} | {len(faulty)} | {caught.flagged} of {caught.judged} | {len(healthy)} | "
            f"{false.flagged} of {false.judged} |"
        )
    wrong = {case: s for case, s in faulty_scores.items() if s.flagged < s.judged}
    wrong |= {case: s for case, s in healthy_scores.items() if s.flagged}
    print("\nCases judged wrong on some seed:" if wrong else "\nNo case was judged wrong.")
    for case, (flagged, judged) in wrong.items():
        print(f"  {case}: flagged on {flagged} of {judged}")


def print_sabotage(seeds: range) -> None:
    """Print how often one broken layer was named, model by deed."""
    print(f"\n| one layer | {' | '.join(MODELS)} |\n|---|{'---:|' * len(MODELS)}")
    total = 0
    for deed in DEEDS:
        named = [sum(commit(c, deed, seed).is_named for seed in seeds) for c in MODELS.values()]
        total += sum(named)
        print(f"| {deed} | {' | '.join(f'{n} of {len(seeds)}' for n in named)} |")
    judged = len(MODELS) * len(DEEDS) * len(seeds)
    print(f"\nnamed: {total} of {judged} ({total / judged:.1%})")


def print_alarms(count: int) -> None:
    """Print the rate of false alarms over seeds of healthy models."""
    alarms = count_alarms(HEALTHY, range(count))
    low, high = bound_rate(len(alarms), count)
    print(f"\nfalse alarms: {len(alarms)} of {count} seeds (95 %: {low:.2%} … {high:.2%})")
    for name, seed in alarms:
        print(f"  {name}, seed {seed}")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer seeds")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    print_sets(range(2 if quick else 10))
    print_sabotage(range(2 if quick else 20))
    print_alarms(100 if quick else 1000)


if __name__ == "__main__":
    main()
