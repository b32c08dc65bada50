"""Arguments and options that several commands share, each with one meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from varprobe.cli.inputs import parse_input

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def parse_codes(text: str) -> tuple[str, ...]:
    """Return the codes of ``VP101,VP2``, in capitals.

    Raises
    ------
    click.BadParameter
        If there are none.
    """
    codes = tuple(code.strip().upper() for code in text.split(",") if code.strip())
    if not codes:
        raise click.BadParameter("no code given, for example VP101,VP2.")
    return codes


def show_examples(*commands: str) -> str:
    """Return the end of a command's help, where click leaves the lines as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {command}" for command in commands)])


FILE = click.Path(dir_okay=False, writable=True, path_type=Path)

target = click.argument("target")

inputs = click.option(
    "--input",
    "inputs",
    type=parse_input,
    metavar="SHAPE[:DTYPE[:HIGH]]",
    multiple=True,
    help="An input made up from the seed: 32,3,224,224 is standard normal float32, 8,64:float64 "
    "another dtype, 4,16:int64:1000 integers below 1000. Repeat it for several positional "
    "arguments. It replaces the inputs that TARGET brings.",
)

init = click.option(
    "--init",
    metavar="NAME",
    help="Draw the weights anew, from default, kaiming_normal, normal(std=0.02), …; without it "
    "they are what TARGET made them.",
)

seed = click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The same seed gives the same numbers.",
)

include = click.option(
    "--include",
    metavar="PATTERN",
    multiple=True,
    help="Watch only modules whose names match, as 'encoder.*'; may be repeated.",
)

exclude = click.option(
    "--exclude",
    metavar="PATTERN",
    multiple=True,
    help="Leave out modules whose names match, as '*.dropout'; may be repeated.",
)

html = click.option("--html", type=FILE, help="Also write a self-contained page.")

plot = click.option("--plot", type=FILE, help="Also draw the curves, as .png, .svg or .pdf.")

preset = click.option(
    "--preset",
    type=click.Choice(["strict", "default", "lenient"]),
    help="strict makes errors of warnings, lenient warnings of all errors but those that no "
    "training survives. [default: as pyproject.toml says, or default]",
)

select = click.option(
    "--select",
    type=parse_codes,
    metavar="CODES",
    help="Run only these checks: codes or their beginnings between commas, as VP101,VP2.",
)

ignore = click.option(
    "--ignore",
    type=parse_codes,
    metavar="CODES",
    help="Leave out findings with these codes or beginnings of codes.",
)


project_seed = click.option(
    "--seed",
    type=click.IntRange(min=0),
    help="The same seed gives the same numbers. [default: as pyproject.toml says, or 0]",
)

project_draws = click.option(
    "--draws",
    type=click.IntRange(min=1),
    help="Samples of the weights; more than one needs --init or a TARGET that builds models. "
    "[default: as pyproject.toml says, or 1]",
)


def draws(default: int) -> Decorator:
    """Return the option for the number of draws."""
    return click.option(
        "--draws",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Samples of the weights; more than one needs --init or a TARGET that builds models.",
    )


def _offer_formats(*formats: str, more: str = "") -> Decorator:
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(formats),
        default="text",
        show_default=True,
        help="What is written to stdout; json is one document and nothing else, markdown is for "
        f"pull requests{more}.",
    )


output_format = _offer_formats("text", "json", "markdown")

verdict_format = _offer_formats(
    "text",
    "json",
    "markdown",
    "github",
    "junit",
    "sarif",
    more=", github annotates a change, junit and sarif are for CI",
)
