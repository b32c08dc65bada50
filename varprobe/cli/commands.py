"""What makes an exit code of whatever happens in a command."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from pathlib import Path

import click

from varprobe.errors import VarprobeError

FINDINGS = 1
"""Exit code of a command that worked and found something."""

FAILURE = 2
"""Exit code of a command that could not do what it was asked; click's own for wrong usage."""

INTERRUPTED = 130
"""What a shell expects of a process that Ctrl-C ended. Not click's 1: that would be a verdict."""

PACKAGE = Path(__file__).parents[1]
INSTALLED = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]


class Failure(click.ClickException):
    """What a command could not do, in one sentence on stderr."""

    exit_code = FAILURE


class Commands(click.Group):
    """A group of commands whose every failure is a sentence on stderr and exit code 2.

    Python would exit with 1 after an uncaught exception, which here means that a model was judged
    and has findings.
    """

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; turn what it raises into an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (KeyboardInterrupt, click.Abort):
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            # The reader of stdout went away. What Python still holds for it would fail again.
            sys.stdout = None
            ctx.exit(FAILURE)
        # A model that calls exit(0) was not judged either.
        except (Exception, SystemExit) as error:
            if ctx.params["traceback"]:
                traceback.print_exception(error)
            raise Failure(explain_error(error)) from error


def explain_error(error: BaseException) -> str:
    """Return what happened and what to do, for whoever is at fault: call, model or varprobe."""
    if isinstance(error, VarprobeError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [index for index, frame in enumerate(frames) if _is_within(frame, [PACKAGE])]
    beyond = frames[own[-1] + 1 :] if own else frames
    theirs = [frame for frame in beyond if not _is_within(frame, INSTALLED)]
    what = summarize_error(error)
    if theirs or any(frame.name == "_call_impl" for frame in beyond):
        where = f" (at {theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
        return (
            f"The model raised {what}{where}. Check that the inputs are what it expects, and that "
            "it runs without varprobe; varprobe --traceback … shows all of it."
        )
    return (
        f"varprobe failed with {what}. If the model runs forward and backward without varprobe, "
        "please report this with what varprobe --traceback … shows."
    )


def summarize_error(error: BaseException) -> str:
    """Return the type of an exception and its message, in one line and without a full stop."""
    said = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _is_within(frame: traceback.FrameSummary, directories: list[Path]) -> bool:
    # Generated code, as a dataclass's __init__, has no file: "<string>".
    path = Path(frame.filename)
    return frame.filename.startswith("<") or any(path.is_relative_to(d) for d in directories)
