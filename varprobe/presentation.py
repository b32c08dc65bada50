"""The methods by which a result shows itself.

They are sugar over the public functions of `varprobe.plotting` and `varprobe.reporting`, which lie
above the results in the import order and are therefore reached through the package's lazy root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike


class Presentable:
    """Write oneself as HTML, Markdown and JSON."""

    __slots__ = ()

    def to_html(self, path: str | PathLike[str] | None = None) -> str:
        """Return one self-contained HTML page; write it to ``path`` if one is given."""
        return _write(_reporting().to_html(self), path)

    def to_markdown(self, path: str | PathLike[str] | None = None) -> str:
        """Return the result as GitHub-flavoured Markdown; write it to ``path`` if one is given."""
        return _write(_reporting().to_markdown(self), path)

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """Return the result as one JSON document; write it to ``path`` if one is given."""
        return _write(_reporting().to_json(self), path)

    def _repr_html_(self) -> str:
        fragment: str = _reporting().to_html_fragment(self)
        return fragment


def _reporting() -> Any:
    import varprobe

    return varprobe.reporting


def _write(text: str, path: str | PathLike[str] | None) -> str:
    if path is not None:
        from pathlib import Path

        Path(path).write_text(text, encoding="utf-8")
    return text
