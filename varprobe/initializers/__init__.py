"""Named initializations: what each draws from, and how to apply it to a model.

``named`` is the table of them and the registry; ``laws`` holds the formulas; ``application`` puts
an initialization on a model, and ``repairing`` draws anew what a diagnosis names. Behind them,
``scheme`` says what every initialization can do, ``drawn``, ``default`` and ``custom`` are its
three kinds, ``lsuv`` scales on data, ``sampling`` draws numbers, ``assignment`` writes them into
parameters, and ``seeding`` makes them repeatable. ``capture`` reads off any code that draws
parameters, without running it on numbers, what it draws them from.

The public names are loaded when they are first used, so that ``laws`` can be had without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from varprobe.loading import load_lazily

if TYPE_CHECKING:
    from varprobe.initializers.application import initialize as initialize, law_of as law_of
    from varprobe.initializers.laws import WeightLaw as WeightLaw
    from varprobe.initializers.named import initialization as initialization
    from varprobe.initializers.repairing import Change as Change, Repair as Repair, repair as repair

__all__, __getattr__, __dir__ = load_lazily(
    __name__,
    {
        "application": ("initialize", "law_of"),
        "laws": ("WeightLaw",),
        "named": ("initialization",),
        "repairing": ("Change", "Repair", "repair"),
    },
)
