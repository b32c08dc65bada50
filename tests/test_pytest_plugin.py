"""The fixture in test runs of its own: what passes, what fails, and what a failure says."""

from __future__ import annotations

import pytest

# Pytester forgets what a run imported, and no process can import this part of torch twice.
import torch._dynamo  # noqa: F401

HEAD = """
import pytest
import torch
from torch import nn

def stack(init):
    layers = []
    for _ in range(30):
        linear = nn.Linear(64, 64, bias=False)
        init(linear.weight)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers)

def he():
    return stack(lambda weight: nn.init.kaiming_normal_(weight))

def xavier():
    return stack(nn.init.xavier_normal_)

inputs = torch.randn(16, 64)
"""


@pytest.fixture
def run(pytester: pytest.Pytester):
    """Return what runs a test file; pytest finds the plugin by its entry point."""

    def run(code: str, *args: str) -> pytest.RunResult:
        pytester.makepyfile(HEAD + code)
        return pytester.runpytest_inprocess(*args)

    return run


def test_a_healthy_model_passes_and_an_unhealthy_one_fails(run) -> None:
    result = run("""
def test_he(propagation):
    propagation.assert_healthy(he(), inputs)

def test_xavier(propagation):
    propagation.assert_healthy(xavier(), inputs)
""")
    result.assert_outcomes(passed=1, failed=1)


def test_a_failure_names_layer_numbers_and_the_next_command(run) -> None:
    result = run("""
def test_xavier(propagation):
    propagation.assert_healthy(xavier(), inputs)
""")
    result.stdout.fnmatch_lines(
        [
            "*PropagationError: Sequential is UNHEALTHY: 61 layers, 1 draw checked.",
            "*VP301 error: 0: fan_in × second moment of its weight is *, ReLU behind it needs 2 *",
            "*fix: *",
            "*hence VP101 error *: 5?: the second moment of its output is *e-* times that at 0*",
            "*next: varprobe explain VP301",
        ]
    )
    # The frames of varprobe say nothing to whoever reads the failure.
    result.stdout.no_fnmatch_line("*raise PropagationError*")


def test_an_exception_of_the_model_is_no_pass(run) -> None:
    result = run("""
def test_wrong_shape(propagation):
    propagation.assert_healthy(he(), torch.randn(16, 63))

def test_unknown_option(propagation):
    propagation.assert_healthy(he(), inputs, drws=3)

def test_nothing_to_look_at(propagation):
    propagation.assert_healthy(nn.Identity(), inputs)
""")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines_random(["*mat1 and mat2*", "*drws*", "*VP001*"])


def test_draws_and_seed_come_from_the_command_line(run) -> None:
    result = run(
        """
def test_a_function_has_draws(propagation):
    recording = propagation.check(he, inputs).analysis.recording
    assert (recording.draws, recording.meta["seed"]) == (3, 7)

def test_an_initialization_has_draws(propagation):
    recording = propagation.check(he(), inputs, init="kaiming_normal").analysis.recording
    assert recording.draws == 3

def test_given_weights_have_one(propagation):
    assert propagation.check(he(), inputs).analysis.recording.draws == 1

def test_an_argument_takes_precedence(propagation):
    recording = propagation.check(he, inputs, draws=2, seed=1).analysis.recording
    assert (recording.draws, recording.meta["seed"]) == (2, 1)
""",
        "--varprobe-draws=3",
        "--varprobe-seed=7",
    )
    result.assert_outcomes(passed=4)


def test_the_defaults_are_one_draw_seed_0_and_nothing_ignored(run) -> None:
    result = run("""
def test_defaults(propagation):
    diagnosis = propagation.check(xavier, inputs)
    recording = diagnosis.analysis.recording
    assert (recording.draws, recording.meta["seed"], dict(diagnosis.ignored)) == (1, 0, {})
""")
    result.assert_outcomes(passed=1)


def test_codes_are_ignored(run) -> None:
    code = """
def test_shared(propagation):
    propagation.assert_healthy(xavier(), inputs)

def test_own(propagation):
    propagation.assert_healthy(xavier(), inputs, ignore=["VP101"])
"""
    run(code, "--varprobe-ignore=VP101,VP2", "--varprobe-ignore=VP3").assert_outcomes(
        passed=1, failed=1
    )


def test_the_settings_of_the_project_count_and_the_command_line_replaces_them(
    run, pytester: pytest.Pytester
) -> None:
    pytester.makepyprojecttoml("""
[tool.varprobe]
preset = "lenient"
ignore = ["VP101"]
draws = 2
seed = 5
""")
    code = """
def test_shared(propagation):
    diagnosis = propagation.check(xavier, inputs)
    recording = diagnosis.analysis.recording
    assert (recording.draws, recording.meta["seed"], diagnosis.healthy) == (2, 5, True)
    assert dict(diagnosis.ignored) == {"VP101": 1}

def test_given_weights_have_one_draw(propagation):
    propagation.assert_healthy(he(), inputs)
"""
    run(code).assert_outcomes(passed=2)
    run(code, "--varprobe-preset=default").assert_outcomes(passed=1, failed=1)


def test_a_mistake_in_the_settings_is_no_pass(run, pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml('[tool.varprobe]\npreest = "strict"')
    result = run("""
def test_other():
    pass

def test_he(propagation):
    propagation.assert_healthy(he(), inputs)
""")
    # Whoever does not ask for the fixture is left alone.
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*pyproject.toml, *There is no key named 'preest'.*'preset'?*"])
    result.stdout.no_fnmatch_line("*find_settings*")


def test_an_unknown_code_is_no_pass(run) -> None:
    result = run("def test_he(propagation): propagation.assert_healthy(he(), inputs)",
                 "--varprobe-select=VP310")  # fmt: skip
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*There is no check named 'VP310'. Did you mean *"])


def test_the_marker_gives_options_and_the_closest_has_the_last_word(run) -> None:
    result = run(
        """
pytestmark = pytest.mark.propagation(draws=2, ignore=["VP101"])

@pytest.mark.propagation(ignore=["VP2"], seed=3)
def test_marked(propagation):
    diagnosis = propagation.check(xavier, inputs)
    assert dict(diagnosis.ignored) == {"VP201": 1}
    recording = diagnosis.analysis.recording
    assert (recording.draws, recording.meta["seed"]) == (2, 3)

@pytest.mark.propagation(wdith=3)
def test_misspelt(propagation):
    propagation.assert_healthy(he, inputs)
""",
        "--varprobe-seed=9",
        "--strict-markers",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*wdith*"])


BASELINE = """
def test_he(propagation):
    propagation.assert_healthy(he, inputs, baseline="baselines/he.json", ignore=["VP1", "VP2"])
"""


def test_a_baseline_lies_beside_the_test_and_is_written_on_request(
    run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    missing = run(BASELINE)
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(
        ["*BaselineError: There is no baseline *baselines/he.json. Write*"]
    )
    run(BASELINE, "--varprobe-update-baselines").assert_outcomes(passed=1)
    assert (pytester.path / "baselines" / "he.json").read_text().startswith('{\n  "format"')
    run(BASELINE, "--varprobe-seed=3").assert_outcomes(passed=1)
    drifted = BASELINE.replace("(he,", "(xavier,")
    result = run(drifted)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*VP305 error: 0: the second moment of its weight 'weight' was *"])
    run(drifted, "--varprobe-update-baselines").assert_outcomes(passed=1)
    run(drifted).assert_outcomes(passed=1)


def test_no_baseline_is_written_in_ci(
    run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    result = run(BASELINE, "--varprobe-update-baselines")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*CI=true is set, and a baseline is not written in CI*"])
    assert not (pytester.path / "baselines").exists()


def test_what_uses_the_fixture_can_be_chosen(run) -> None:
    code = """
def test_other():
    pass

def test_he(propagation):
    propagation.assert_healthy(he(), inputs)
"""
    run(code, "-m", "propagation").assert_outcomes(passed=1, deselected=1)
    run(code, "-m", "not propagation").assert_outcomes(passed=1, deselected=1)


@pytest.mark.parametrize("codes", ["", " , "])
def test_a_list_without_codes_is_wrong_usage(run, codes: str) -> None:
    result = run("", f"--varprobe-ignore={codes}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*has no code, for example VP101,VP2"])


@pytest.mark.parametrize("draws", ["0", "-1", "many"])
def test_a_number_of_draws_that_means_nothing_is_wrong_usage(run, draws: str) -> None:
    result = run("", f"--varprobe-draws={draws}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*'{draws}' is no number of draws: at least 1 is needed"])


def test_the_options_are_explained(run) -> None:
    result = run("", "--help")
    result.stdout.fnmatch_lines(
        ["*--varprobe-draws=N*", "*--varprobe-seed=N*", "*--varprobe-ignore=CODES*"]
    )


def test_the_fixture_is_listed(run) -> None:
    run("", "--fixtures").stdout.fnmatch_lines(["propagation*"])
