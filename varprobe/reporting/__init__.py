"""Write a result down: as text, HTML, Markdown, JSON; a verdict also for the machines that gate.

``describe`` turns any result into a `Report`, which knows no format; ``text``, ``html`` and
``markdown`` each turn any `Report` into theirs. ``json_document`` writes the result itself: for
programs, with every number. ``github``, ``junit`` and ``sarif`` write results that hold a verdict,
each in the terms of its readers. Another result is another describer, another format another file.

Nothing here imports torch: a saved recording is reported on a machine that has none.
"""

from varprobe.reporting.describe import describe
from varprobe.reporting.github import summarize_for_github, to_github
from varprobe.reporting.html import to_html, to_html_fragment
from varprobe.reporting.json_document import to_json
from varprobe.reporting.junit import to_junit
from varprobe.reporting.markdown import to_markdown
from varprobe.reporting.report import Report
from varprobe.reporting.sarif import to_sarif
from varprobe.reporting.text import to_text
from varprobe.reporting.verdicts import Source

__all__ = [
    "Report",
    "Source",
    "describe",
    "summarize_for_github",
    "to_github",
    "to_html",
    "to_html_fragment",
    "to_json",
    "to_junit",
    "to_markdown",
    "to_sarif",
    "to_text",
]
