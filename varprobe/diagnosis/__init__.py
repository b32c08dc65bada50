"""The verdict: checks with stable codes look at an Analysis and make findings.

``finding`` holds what a check says, ``rule`` the registry and what each code means, ``verdict``
runs them all. Each family of checks is a file: ``nothing`` (VP001), ``growth`` (VP101, VP102,
VP201, VP202), ``dead`` (VP103), ``weights`` (VP301, VP302), ``departure`` (VP303),
``numerics`` (VP901).
"""

from varprobe.diagnosis.finding import Diagnosis, Finding
from varprobe.diagnosis.rule import RULES, CheckRule, check_rule
from varprobe.diagnosis.verdict import diagnose

__all__ = ["RULES", "CheckRule", "Diagnosis", "Finding", "check_rule", "diagnose"]
