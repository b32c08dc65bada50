"""``varprobe explain``: what a code means."""

from __future__ import annotations

import click

from varprobe.cli import options


@click.command(
    "explain",
    short_help="Say what a code means.",
    epilog=options.show_examples(
        "varprobe explain",
        "varprobe explain VP301",
    ),
)
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Say what a code looks for, why it matters, and what to do; without CODE, list them all."""
    from varprobe.diagnosis import RULES

    formatter = click.HelpFormatter(max_width=100)
    if code is None:
        formatter.write_dl(
            [(known, f"{RULES[known].name} ({RULES[known].level})") for known in sorted(RULES)]
        )
    else:
        rule = RULES[code.strip().upper()]
        formatter.write(f"{rule.code} {rule.name} ({rule.level})\n")
        told = {
            "What": rule.what,
            "Why": rule.why,
            "Remedy": rule.remedy,
            "Reference": rule.reference,
        }
        formatter.write_dl([(title, text) for title, text in told.items() if text])
    click.echo(formatter.getvalue().rstrip())
