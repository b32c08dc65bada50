"""Write a result down: as text, HTML, Markdown, JSON.

``describe`` turns any result into a `Report`, which knows no format; ``text``, ``html`` and
``markdown`` each turn any `Report` into theirs. ``json_document`` writes the result itself: for
programs, with every number. Another result is another describer, another format another file.

Nothing here imports torch: a saved recording is reported on a machine that has none.
"""

from varprobe.reporting.describe import describe
from varprobe.reporting.html import to_html, to_html_fragment
from varprobe.reporting.json_document import to_json
from varprobe.reporting.markdown import to_markdown
from varprobe.reporting.report import Report
from varprobe.reporting.text import to_text

__all__ = [
    "Report",
    "describe",
    "to_html",
    "to_html_fragment",
    "to_json",
    "to_markdown",
    "to_text",
]
