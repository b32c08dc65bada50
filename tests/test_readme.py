from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

from tests.readme_blocks import run_blocks

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


@pytest.fixture(autouse=True)
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sit in an empty directory, at a terminal of fixed width without colours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")


def test_the_blocks_of_the_readme_run_and_print_what_it_shows() -> None:
    assert run_blocks(README.read_text(encoding="utf-8"), "README.md") > 0


def test_what_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\":]+)\"", README.read_text(encoding="utf-8"))
    missing = [a or b for a, b in links if not (ROOT / (a or b)).exists()]
    assert missing == []


def run(page: str) -> int:
    return run_blocks(dedent(page), "page.md")


GOOD = """
    Values live on between blocks.

    ```python
    x = 0.5
    ```

    ```python
    print(f"x = {x}   ")
    print("took 0.123 s")
    ```

    <!-- output -->
    ```text
    x = 0.5
    took ... s
    ```

    <!-- file: model.py -->

    ```python
    raise SystemExit("is not run here")
    ```

    ```console
    $ ls
    model.py
    $ python model.py || true
    is not run here
    ```

    <!-- exit 3 -->
    ```console
    $ exit 3
    ```

    ```bash
    no-such-command
    ```
"""


def test_a_page_that_tells_the_truth_passes() -> None:
    assert run(GOOD) == 4


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ("x = 0.5\n    took", "x = 0.6\n    took", r"page\.md:15: the page shows\nx = 0\.6"),
        ("    model.py\n", "    other.py\n", r"page\.md:26: the page shows\nother\.py"),
        ("$ exit 3", "$ exit 2", r"page\.md:34: `exit 2` exited with 2, not 3"),
        ("$ python model.py || true", "$ python model.py", "exited with 1, not 0"),
        ("$ ls", "ls", "a console block begins with"),
    ],
)
def test_a_page_that_does_not_fails(was: str, becomes: str, message: str) -> None:
    assert was in GOOD
    with pytest.raises(AssertionError, match=message):
        run(GOOD.replace(was, becomes))


def test_an_exception_names_the_line_of_the_page() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run("Text.\n\n```python\na = 1\na / 0\n```\n")
    last = caught.traceback[-1]
    assert (Path(last.path).name, last.lineno + 1) == ("page.md", 5)
