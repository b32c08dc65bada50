"""Where things are written: the result to stdout, all else to stderr or a file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from varprobe.cli.commands import Failure

if TYPE_CHECKING:
    from varprobe.reporting import Source


@contextlib.contextmanager
def stdout_for_results() -> Iterator[None]:
    """Send to stderr what a model, its import or a child process prints meanwhile.

    What varprobe writes to stdout may be one document for a program, and nothing else.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def show_progress(total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar on a terminal's stderr; call what is given with a label after each step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=total)
        yield lambda label: progress.update(task, advance=1, description=label)


def write_result(
    result: object,
    output_format: str,
    *,
    only_findings: bool = False,
    source: Source | None = None,
) -> None:
    """Write a result to stdout, for people or for a program.

    Parameters
    ----------
    result : object
        What a public call returned.
    output_format : str
        One of those that `varprobe.cli.options.verdict_format` offers.
    only_findings : bool
        Whether a text leaves out the tables.
    source : Source, optional
        What the result is about, for formats that name it and point to a line.
    """
    from varprobe import reporting

    documents: dict[str, Callable[[], str]] = {
        "json": lambda: reporting.to_json(result),
        "markdown": lambda: reporting.to_markdown(result),
        "github": lambda: reporting.to_github(result, source=source),
        "junit": lambda: reporting.to_junit(result, source=source),
        "sarif": lambda: reporting.to_sarif(result, source=source),
    }
    if output_format in documents:
        click.echo(documents[output_format](), nl=False)
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if output_format == "github" and summary:
            _append(Path(summary), f"{reporting.summarize_for_github(result, source=source)}\n")
        return
    from rich.console import Console

    from varprobe.reporting.text import WIDTH, render, render_findings

    # Rich takes 80 columns where it finds no terminal; the tables are made for a little more.
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH
    report = reporting.describe(result)
    Console(width=wide).print(render_findings(report) if only_findings else render(report))


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise Failure(f"{str(path)!r} cannot be written: {error.strerror}.") from error


def write_file(path: Path, write: Callable[[Path], object], *, err: bool = True) -> None:
    """Write a file and say so on stderr, or on stdout where no program reads that.

    Parameters
    ----------
    path : Path
        Where; its folder is made if it is missing.
    write : callable
        Writes to the path that it is given.
    err : bool
        Whether stderr is where to say it.

    Raises
    ------
    Failure
        If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except OSError as error:
        raise Failure(f"{str(path)!r} cannot be written: {error.strerror}.") from error
    click.echo(f"wrote {path}", err=err)
