"""Every exception and warning that varprobe raises on purpose.

::

    VarprobeError
    ├── InvalidArgumentError      an argument that cannot mean anything (also a ValueError)
    ├── NothingRecordedError      nothing was observed, so nothing can be said
    ├── UnknownNameError          a name that no registry holds (also a ValueError)
    ├── DuplicateNameError        a name that a registry holds already (also a ValueError)
    ├── ProbeStateError           a probe used in an order that makes no sense
    ├── UnsupportedModelError     a model or input that cannot be observed, with the way out
    ├── MissingRuleError          the theory was asked to be complete and is not
    ├── BaselineError             a baseline that is missing, or of another model
    ├── SettingsError             a pyproject.toml that asks for what does not exist
    └── RecordingFormatError      a file that is no recording, or not a whole one

    PropagationError(AssertionError)    the verdict: signal does not propagate
    VarprobeWarning(UserWarning)        something worth knowing, nothing wrong

`PropagationError` stands apart: it says that varprobe worked and that the model is at fault, so
that ``except VarprobeError`` never swallows a verdict and test runners count it as a failure.

A message says what was found and where, what was expected, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_LISTED = 50
"""Names in a message: as many as there are initializations or checks. A model has thousands."""


class VarprobeError(Exception):
    """Signal that varprobe could not do what it was asked."""


class InvalidArgumentError(VarprobeError, ValueError):
    """Signal an argument, or two together, that cannot mean anything."""


class NothingRecordedError(VarprobeError):
    """Signal that a measurement holds no layer at all (code VP001)."""


class UnknownNameError(VarprobeError, ValueError):
    """Signal a name that does not exist; the message lists those that do."""

    @classmethod
    def among(cls, what: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """Build the error for ``name``, suggesting the nearest of the ``known`` names."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        listed = f"Known: {', '.join(names[:MAX_LISTED])}{more}." if names else "None is known."
        return cls(f"There is no {what} named {name!r}.{hint} {listed}")


class DuplicateNameError(VarprobeError, ValueError):
    """Signal a second registration under one name; ``overwrite=True`` allows it."""


class ProbeStateError(VarprobeError):
    """Signal a probe that is started twice."""


class UnsupportedModelError(VarprobeError):
    """Signal a model that cannot be observed as it is."""


class MissingRuleError(VarprobeError):
    """Signal an operation for which the theory has no rule."""


class BaselineError(VarprobeError):
    """Signal a baseline that cannot be read, written or compared with."""


class SettingsError(VarprobeError):
    """Signal a table ``[tool.varprobe]`` that cannot be followed."""


class RecordingFormatError(VarprobeError):
    """Signal a file that is not a complete recording."""


class PropagationError(AssertionError):
    """Signal that at least one finding of level error was made."""


class VarprobeWarning(UserWarning):
    """Warn about something that deserves a look."""
