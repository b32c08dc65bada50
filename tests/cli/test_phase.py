from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]

FEW = ("--sigma-w2", "0.5,2.5", "--sigma-b2", "0,0.05")


def test_it_says_where_the_edge_is_and_what_networks_do(run: Run) -> None:
    result = run("phase", "erf", *FEW)
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    # Without biases 1 / φ'(0)² = π/4.
    assert ["0", "0.7854", "0.00", "inf"] in lines
    assert [line[1] for line in lines if line[:1] in (["0.5"], ["2.5"])] == [
        "ordered",
        "chaotic",
    ] * 2
    assert result.stdout.splitlines()[-1] == "4 networks: 2 ordered, 2 chaotic."


def test_what_has_no_line_is_told_in_words(run: Run) -> None:
    result = run("phase", "leaky_relu(negative_slope=0.5)")
    assert result.exit_code == 0, result.stderr
    told = " ".join(result.stdout.split())
    assert "there is no critical line, but a point. At sigma_w2 = 1.6 without biases" in told


def test_the_lines_fit_a_narrow_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("phase", "relu").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(" ordered " in line for line in lines) == 19


def test_json_is_one_document(run: Run) -> None:
    result = run("phase", "erf", *FEW, "--format", "json")
    document = json.loads(result.stdout)
    assert document["format"] == "varprobe phase diagram"
    assert [network["phase"] for network in document["networks"]] == ["ordered", "chaotic"] * 2


def test_markdown_is_for_pull_requests(run: Run) -> None:
    assert run("phase", "erf", *FEW, "--format", "markdown").stdout.startswith(
        "## Phase diagram of erf\n\n4 networks: 2 ordered, 2 chaotic.\n"
    )


def test_page_and_figure_are_kept(run: Run) -> None:
    result = run("phase", "erf", *FEW, "--html", "page.html", "--plot", "figures/phase.png")
    assert result.exit_code == 0, result.stderr
    assert "<title>Phase diagram of erf</title>" in Path("page.html").read_text()
    assert Path("figures/phase.png").read_bytes().startswith(b"\x89PNG")
    assert "wrote figures/phase.png" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("tan",), "There is no nonlinearity named 'tan'. Did you mean 'tanh'?"),
        (("elu(beta=2)",), "The nonlinearity elu takes alpha, but got an unexpected keyword"),
        (("erf", "--sigma-w2", "one"), "'one' is not a list of numbers between commas"),
        (("erf", "--sigma-w2", "1,0"), "sigma_w2 is a variance times the width, finite and > 0"),
        (("erf", "--sigma-b2=-1"), "sigma_b2 is a variance, finite and >= 0, got -1.0"),
        (
            ("erf", "--sigma-w2", "1", "--sigma-b2", "0", "--plot", "phase.png"),
            "A phase diagram is drawn over two or more values of both",
        ),
        ((), "Missing argument 'ACTIVATION'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_is_a_sentence_and_2(run: Run, args: tuple[str, ...], message: str) -> None:
    result = run("phase", *args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
