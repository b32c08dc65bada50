"""Tell whether signal propagates through a PyTorch model at initialization.

It measures the variance and second moment of every activation and gradient, predicts them, says
which layer is to blame, draws the curves over depth, and gates CI.

Names are loaded when they are first used: ``import varprobe`` loads neither torch nor pandas nor
matplotlib. `__all__` lists the public names, the table below says where each one lives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from varprobe.loading import load_lazily

__version__ = "0.1.0"

_HOMES = {
    "analysis": ("Analysis", "analyze"),
    "baseline": ("Baseline",),
    "comparison": ("Comparison", "compare"),
    "diagnosis": ("Diagnosis", "Finding", "Fix", "Policy", "check_rule", "diagnose"),
    "errors": (
        "BaselineError",
        "DuplicateNameError",
        "InvalidArgumentError",
        "MissingRuleError",
        "NothingRecordedError",
        "ProbeStateError",
        "PropagationError",
        "RecordingFormatError",
        "SettingsError",
        "UnknownNameError",
        "UnsupportedModelError",
        "VarprobeError",
        "VarprobeWarning",
    ),
    "identification": ("Identification", "identify"),
    "initializers": ("Repair", "WeightLaw", "initialization", "initialize", "law_of", "repair"),
    "moments": ("Moments",),
    "monitoring": ("Monitor",),
    "observation": ("is_container", "is_leaf"),
    "plotting": (
        "CompareDisplay",
        "DepthDisplay",
        "IdentificationDisplay",
        "PhaseDisplay",
        "plot_compare",
        "plot_depth",
        "plot_identification",
        "plot_phase",
    ),
    "probe": ("Probe",),
    "profiling": ("profile",),
    "recording": ("Record", "Recording", "Site", "Unobserved"),
    "testing": ("assert_healthy", "check"),
    "theory": ("Expectation", "PhaseDiagram", "Prediction", "map_phases", "predict", "rule"),
}

__all__, __getattr__, __dir__ = load_lazily(
    __name__, _HOMES, submodules=("initializers", "plotting", "reporting", "theory")
)

# The same table once more, for those who read types instead of running code.
if TYPE_CHECKING:
    from varprobe.analysis import Analysis as Analysis, analyze as analyze
    from varprobe.baseline import Baseline as Baseline
    from varprobe.comparison import Comparison as Comparison, compare as compare
    from varprobe.diagnosis import (
        Diagnosis as Diagnosis,
        Finding as Finding,
        Fix as Fix,
        Policy as Policy,
        check_rule as check_rule,
        diagnose as diagnose,
    )
    from varprobe.errors import (
        BaselineError as BaselineError,
        DuplicateNameError as DuplicateNameError,
        InvalidArgumentError as InvalidArgumentError,
        MissingRuleError as MissingRuleError,
        NothingRecordedError as NothingRecordedError,
        ProbeStateError as ProbeStateError,
        PropagationError as PropagationError,
        RecordingFormatError as RecordingFormatError,
        SettingsError as SettingsError,
        UnknownNameError as UnknownNameError,
        UnsupportedModelError as UnsupportedModelError,
        VarprobeError as VarprobeError,
        VarprobeWarning as VarprobeWarning,
    )
    from varprobe.identification import Identification as Identification, identify as identify
    from varprobe.initializers import (
        Repair as Repair,
        WeightLaw as WeightLaw,
        initialization as initialization,
        initialize as initialize,
        law_of as law_of,
        repair as repair,
    )
    from varprobe.moments import Moments as Moments
    from varprobe.monitoring import Monitor as Monitor
    from varprobe.observation import is_container as is_container, is_leaf as is_leaf
    from varprobe.plotting import (
        CompareDisplay as CompareDisplay,
        DepthDisplay as DepthDisplay,
        IdentificationDisplay as IdentificationDisplay,
        PhaseDisplay as PhaseDisplay,
        plot_compare as plot_compare,
        plot_depth as plot_depth,
        plot_identification as plot_identification,
        plot_phase as plot_phase,
    )
    from varprobe.probe import Probe as Probe
    from varprobe.profiling import profile as profile
    from varprobe.recording import (
        Record as Record,
        Recording as Recording,
        Site as Site,
        Unobserved as Unobserved,
    )
    from varprobe.testing import assert_healthy as assert_healthy, check as check
    from varprobe.theory import (
        Expectation as Expectation,
        PhaseDiagram as PhaseDiagram,
        Prediction as Prediction,
        map_phases as map_phases,
        predict as predict,
        rule as rule,
    )
