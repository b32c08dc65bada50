"""The command ``varprobe``: measure, check and compare models from the shell.

A module for each command, and what they share: ``subjects`` finds the model and its inputs
(``targets``, ``inputs``), ``options`` names what several commands take, ``commands`` makes exit
codes of failures, ``output`` writes. Everything heavy is imported inside the commands, so that
``varprobe --help`` answers at once.
"""

import click

from varprobe import __version__
from varprobe.cli import (
    baseline,
    check,
    compare,
    demo,
    explain,
    identify,
    phase,
    predict,
    profile,
)
from varprobe.cli.commands import Commands
from varprobe.cli.options import show_examples

__all__ = ["main"]

HELP = """Tell whether signal propagates through a PyTorch model at initialization.

A TARGET is package.module:name or path/to/file.py:name. The name stands for a model, or for a
function without arguments that returns a model, (model, inputs) or (model, inputs, loss).

Exit code: 0 healthy, 1 findings of level error, 2 wrong usage or an error.
"""

main = Commands(
    "varprobe",
    help=HELP,
    epilog=show_examples(
        "varprobe check models.py:build --input 32,3,224,224",
        "varprobe compare models.py:build --input 32,3,224,224 --draws 4",
        "varprobe explain VP301",
    ),
    commands=[
        module.command
        for module in (baseline, check, compare, demo, explain, identify, phase, predict, profile)
    ],
    params=[click.Option(["--traceback"], is_flag=True, help="Show where an error came from.")],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(__version__, prog_name="varprobe")(main)
