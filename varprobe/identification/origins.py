"""What `identify` found: a row for each parameter, and the list of those that it could not read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from varprobe.errors import UnknownNameError
from varprobe.identification.variance_laws import VarianceLaw
from varprobe.presentation import Presentable
from varprobe.recording import Unobserved
from varprobe.schema import IDENTIFICATION, build_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the numbers of one parameter come from.

    Attributes
    ----------
    module : str
        Name of the module, "" for the root.
    parameter : str
        Name of the parameter in it.
    kind : str
        Class name of the module.
    shape : tuple of int
        Shape of the parameter.
    mean, variance : float
        Measured.
    candidates : tuple of str
        Distributions that may have drawn it, most likely first; several where the numbers, fewer
        than about 1,500, do not decide.
    laws : tuple of VarianceLaw
        The variance laws that are compatible with the numbers, best first: those within 5 standard
        errors, for a uniform distribution those whose bound lies just beyond the largest weight.
    p_value : float
        How often a sample of the first candidate looks less like it; NaN if nothing is random.
    follower : str
        Nonlinearity behind the layer; "" if none was found, or a normalization comes first.
    expected : VarianceLaw or None
        The fan-in law that suits the follower.
    ratio : float
        Measured second moment over that expected variance.
    z : float
        ln(ratio) in standard errors. NaN without an expected law, and where nothing is random.
    fits : bool or None
        Whether ratio is between 1/1.25 and 1.25 (see `varprobe.theory.followers.MAX_DEPARTURE`), or
        off by no more than chance. None without an expected law.
    note : str
        What else was seen.
    """

    module: str
    parameter: str
    kind: str
    shape: tuple[int, ...]
    mean: float
    variance: float
    candidates: tuple[str, ...]
    laws: tuple[VarianceLaw, ...] = ()
    p_value: float = math.nan
    follower: str = ""
    expected: VarianceLaw | None = None
    ratio: float = math.nan
    z: float = math.nan
    fits: bool | None = None
    note: str = ""

    @property
    def label(self) -> str:
        """Name as in ``named_parameters()``."""
        return f"{self.module}.{self.parameter}" if self.module else self.parameter

    @property
    def size(self) -> str:
        """Shape as people write it: "64×32"; "" for a scalar."""
        return "×".join(map(str, self.shape))

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def std(self) -> float:
        """Measured standard deviation."""
        return math.sqrt(self.variance)

    @property
    def expected_std(self) -> float:
        """Standard deviation by the expected law; NaN without one."""
        return math.sqrt(self.expected.variance) if self.expected else math.nan

    @property
    def distribution(self) -> str:
        """The candidates in one phrase: "normal", or "normal or trunc_normal"."""
        return " or ".join(self.candidates)

    def to_row(self) -> dict[str, object]:
        """Return the values of the columns of `varprobe.schema.IDENTIFICATION`."""
        return {
            "module": self.module,
            "parameter": self.parameter,
            "kind": self.kind,
            "shape": self.size,
            "numel": self.numel,
            "mean": self.mean,
            "std": self.std,
            "distribution": self.distribution,
            "laws": ", ".join(law.name for law in self.laws),
            "p_value": self.p_value,
            "follower": self.follower,
            "expected_law": self.expected.name if self.expected else "",
            "expected_std": self.expected_std,
            "ratio": self.ratio,
            "z": self.z,
            "fits": self.fits,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Identification(Presentable):
    """The origins of the parameters of a model.

    Parameters
    ----------
    origins : tuple of Origin
        One for each parameter, in the order of modules; a shared one once.
    unobserved : tuple of Unobserved
        Parameters that have no numbers to judge, each with its reason.
    meta : mapping
        The model's class, and where the order of its modules was taken from: "calls" or
        "registration".

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> identification = vp.identify(torch.nn.Linear(64, 64))
    >>> identification["weight"].distribution
    'uniform'
    >>> identification.to_frame().columns[:2].tolist()
    ['module', 'parameter']
    """

    origins: tuple[Origin, ...]
    unobserved: tuple[Unobserved, ...] = ()
    meta: Mapping[str, object] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.origins)

    def __iter__(self) -> Iterator[Origin]:
        return iter(self.origins)

    def __getitem__(self, name: str) -> Origin:
        """Return the origin of a parameter by its name as in ``named_parameters()``.

        Raises
        ------
        UnknownNameError
            If no parameter with numbers has that name.
        """
        for origin in self.origins:
            if origin.label == name:
                return origin
        raise UnknownNameError.among("parameter", name, [origin.label for origin in self.origins])

    def to_frame(self) -> pd.DataFrame:
        """Return a tidy frame with the columns of `varprobe.schema.IDENTIFICATION`."""
        return build_frame(IDENTIFICATION, (origin.to_row() for origin in self.origins))

    def plot(self, **options: Any) -> object:
        """Draw the scale of each weight; see `varprobe.plot_identification`."""
        import varprobe

        return varprobe.plot_identification(self, **options)

    @property
    def counted(self) -> str:
        """How many parameters have which distribution, the most frequent first."""
        counts = Counter(origin.distribution for origin in self.origins)
        return ", ".join(f"{number} {name}" for name, number in counts.most_common())

    def __repr__(self) -> str:
        plural = "" if len(self) == 1 else "s"
        counted = f": {self.counted}" if self.origins else ""
        unread = f"; {len(self.unobserved)} not read" if self.unobserved else ""
        model = self.meta.get("model", "a model")
        return f"<Identification of {model}: {len(self)} parameter{plural}{counted}{unread}>"
