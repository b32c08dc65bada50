"""The verdict: checks with stable codes look at an Analysis and make findings.

``finding`` holds what a check says, ``rule`` the registry and what each code means, ``verdict``
runs them all, ``policy`` says which of them count for a project. ``causes`` puts a cause before
what follows from it, ``fixes`` says what to draw anew, and ``effects`` what theory predicts of
that. Each family of checks is a file: ``nothing`` (VP001), ``growth`` (VP101, VP102, VP201, VP202),
``dead`` (VP103), ``saturation`` (VP104), ``collapse`` (VP105), ``narrow`` (VP106), ``arrival``
(VP203), ``weights`` (VP301), ``symmetry`` (VP302), ``departure`` (VP303), ``designs`` (VP304),
``drift`` (VP305), ``numerics`` (VP901), ``dtype_range`` (VP902). ``peers`` finds the odd one among
layers that are drawn alike, ``stacks`` those that do the same thing at different depths.
"""

from varprobe.diagnosis.finding import Diagnosis, Finding, Fix
from varprobe.diagnosis.policy import PRESETS, Policy
from varprobe.diagnosis.rule import RULES, CheckRule, check_rule
from varprobe.diagnosis.verdict import diagnose

__all__ = [
    "PRESETS",
    "RULES",
    "CheckRule",
    "Diagnosis",
    "Finding",
    "Fix",
    "Policy",
    "check_rule",
    "diagnose",
]
