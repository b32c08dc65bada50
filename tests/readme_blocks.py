"""Run the code blocks of a Markdown page as its reader would, one after the other.

- ```` ```python ````: run, in one namespace for the whole page.
- ```` ```text ```` under ``<!-- output -->``: what the Python block before it printed.
- ```` ```console ````: each line ``$ command`` is run by the shell, and the lines below it, if any,
  are what it prints. It exits with 0, or with N if ``<!-- exit N -->`` stands above the block.
- any block under ``<!-- file: NAME -->``: written to that file, and not run.
- all other blocks, such as ```` ```bash ````: for the reader only.

Everything happens in the current directory. In expected output ``...`` stands for anything, and
spaces at the ends of lines do not count.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCED = re.compile(
    r"(?:^<!-- (?P<marker>[^\n]*?) -->\n\n?)?"
    r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block: ``line`` is the number of its first line on the page."""

    marker: str
    language: str
    code: str
    line: int


def find_blocks(page: str) -> Iterator[Block]:
    for match in FENCED.finditer(page):
        line = page.count("\n", 0, match.start("code")) + 1
        yield Block(match["marker"] or "", match["language"], match["code"], line)


def run_blocks(page: str, name: str) -> int:
    """Run the blocks of ``page``, called ``name`` in messages; return how many were run."""
    namespace: dict[str, object] = {"__name__": "__readme__"}
    printed, count = "", 0
    for block in find_blocks(page):
        where = f"{name}:{block.line}"
        if block.marker.startswith("file: "):
            Path(block.marker.removeprefix("file: ")).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            printed, count = _run_python(block, namespace, name), count + 1
        elif block.language == "text" and block.marker == "output":
            _compare(block.code, printed, where)
        elif block.language == "console":
            _run_console(block, where)
            count += 1
    return count


def _run_python(block: Block, namespace: dict[str, object], name: str) -> str:
    # Empty lines in front: a traceback then names the line of the page.
    code = compile("\n" * (block.line - 1) + block.code, name, "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, namespace)
    return printed.getvalue()


def _run_console(block: Block, where: str) -> None:
    expected_exit = int(block.marker.removeprefix("exit ") or 0)
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    head, *steps = re.split(r"^\$ ", block.code, flags=re.MULTILINE)
    assert not head, f"{where}: a console block begins with '$ '"
    for step in steps:
        command, _, output = step.partition("\n")
        result = subprocess.run(
            command,
            shell=True,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert result.returncode == expected_exit, (
            f"{where}: `{command}` exited with {result.returncode}, not {expected_exit}:\n"
            f"{result.stdout}"
        )
        if output.strip():
            _compare(output, result.stdout, where)


def _compare(expected: str, printed: str, where: str) -> None:
    wanted, got = _strip(expected), _strip(printed)
    same = doctest.OutputChecker().check_output(wanted, got, doctest.ELLIPSIS)
    assert same, f"{where}: the page shows\n{wanted}\nand what was printed is\n{got}"


def _strip(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"
