"""A report as one HTML page that needs nothing else, or as a fragment for a notebook."""

from __future__ import annotations

import base64
import functools

from jinja2 import Environment, PackageLoader, StrictUndefined

from varprobe.reporting.describe import describe
from varprobe.reporting.report import Report


def to_html(result: object) -> str:
    """Return a result as one HTML page: figure, verdict, findings, tables.

    The page has its styles and its figure in it, loads nothing and runs no script; it follows the
    reader's light or dark scheme. The same numbers give the same bytes.

    Parameters
    ----------
    result : Recording, Prediction, Analysis, Diagnosis, Comparison, PhaseDiagram or Identification
        What a public call returned.

    Raises
    ------
    UnknownNameError
        If ``result`` is none of these.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> page = to_html(vp.check(torch.nn.Linear(64, 64), torch.randn(32, 64)))
    >>> "<title>Diagnosis of Linear</title>" in page
    True
    """
    return _fill("page.html.jinja", describe(result))


def to_html_fragment(result: object) -> str:
    """Return a result as an HTML element for a notebook, which brings its own background.

    Parameters
    ----------
    result : Recording, Prediction, Analysis, Diagnosis, Comparison, PhaseDiagram or Identification
        What a public call returned.

    Raises
    ------
    UnknownNameError
        If ``result`` is none of these.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> fragment = to_html_fragment(vp.profile(torch.nn.Linear(64, 64), torch.randn(32, 64)))
    >>> fragment.startswith('<div class="varprobe">')
    True
    """
    return _fill("fragment.html.jinja", describe(result))


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("varprobe.reporting"),
        # Names of modules, messages of exceptions, labels of runs: all of it is foreign text.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _fill(template: str, report: Report) -> str:
    figure = base64.b64encode(report.draw()).decode("ascii") if report.draw else ""
    return _environment().get_template(template).render(report=report, figure=figure) + "\n"
