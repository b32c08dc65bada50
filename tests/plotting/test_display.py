from __future__ import annotations

import hashlib
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from tests.plotting.samples import make_recording
from varprobe.errors import InvalidArgumentError, UnknownNameError
from varprobe.plotting import CompareDisplay, DepthDisplay, plot_depth

SIGNATURES = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}

RENDER = f"""
import hashlib, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.plotting.test_display import make_display
print(hashlib.sha256(make_display().render("svg")).hexdigest())
"""


def make_display(count: int = 5, name: str = "layer") -> DepthDisplay:
    draws = {f"{name}{index}": [1.0 + index, 2.0] for index in range(count)}
    return DepthDisplay.from_recording(make_recording(draws))


@pytest.mark.parametrize("file_format", SIGNATURES)
def test_the_same_numbers_give_the_same_bytes(file_format: str) -> None:
    display = make_display()
    first = display.render(file_format)
    assert first.startswith(SIGNATURES[file_format])
    assert display.render(file_format) == first
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 30, "svg.fonttype": "none"}):
        assert make_display().render(file_format) == first


def test_another_process_gives_the_same_bytes() -> None:
    # SVG is the format with identifiers, which matplotlib would otherwise draw at random.
    command = [sys.executable, "-c", RENDER]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert told == hashlib.sha256(make_display().render("svg")).hexdigest()


@pytest.mark.parametrize("file_format", SIGNATURES)
def test_the_suffix_names_the_format(file_format: str, tmp_path: Path) -> None:
    path = tmp_path / f"figure.{file_format}"
    make_display().save(path)
    assert path.read_bytes().startswith(SIGNATURES[file_format])


def test_an_unknown_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no image format named 'jpg'.*pdf, png, svg"):
        make_display().save(tmp_path / "figure.jpg")
    assert not list(tmp_path.iterdir())


def test_nothing_global_is_touched() -> None:
    before = mpl.rcParams.copy()
    make_display().plot().render()
    assert mpl.rcParams == before
    assert plt.get_fignums() == []


def test_plot_returns_the_display() -> None:
    display = make_display()
    assert not hasattr(display, "figure_")
    assert display.plot() is display


def test_a_notebook_shows_figures_that_are_its_own_only() -> None:
    display = make_display()
    assert display._repr_png_() == display.render("png")
    figure, axes = plt.subplots(1, 2)
    assert display.plot(axes)._repr_png_() is None
    plt.close(figure)


def test_axes_of_the_user_are_drawn_on() -> None:
    figure, axes = plt.subplots(1, 2)
    display = make_display().plot(axes)
    assert display.figure_ is figure
    assert display.axes_ == tuple(axes)
    assert axes[0].get_legend() is not None
    assert figure.legends == []
    plt.close(figure)


def test_a_subfigure_leads_to_its_figure() -> None:
    figure = plt.figure()
    axes = figure.subfigures(1, 2)[1].subplots(2, 1)
    assert make_display().plot(axes).figure_ is figure
    plt.close(figure)


def test_axes_that_do_not_fit_the_signals_are_an_error() -> None:
    figure, axes = plt.subplots()
    with pytest.raises(
        InvalidArgumentError, match=r"2 panels are drawn \(activation, gradient\).*but 1 axes"
    ):
        make_display().plot(axes)
    plt.close(figure)


@pytest.mark.parametrize("count", [1, 2, 7, 30, 200])
@pytest.mark.parametrize("name", ["", "encoder.layers.self_attention.", "block"])
def test_tick_labels_do_not_overlap(count: int, name: str) -> None:
    display = make_display(count, name).plot()
    display.figure_.draw_without_rendering()
    for axes in display.axes_:
        labels = [label for label in axes.get_xticklabels() if label.get_text()]
        low, high = axes.get_xlim()
        assert labels
        assert all(low <= label.get_position()[0] <= high for label in labels)
        gaps = np.diff([axes.transData.transform((x.get_position()[0], 1))[0] for x in labels])
        angle = np.radians(labels[0].get_rotation())
        if angle:
            # Tilted labels are parallel: what lies between them is measured across the text.
            height = labels[0].get_fontsize() / 72 * display.figure_.dpi
            assert all(gaps * np.sin(angle) >= height)
        else:
            boxes = [label.get_window_extent() for label in labels]
            assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("encoder.0.fc", "encoder.0.fc"),
        ("transformer.hidden_layers.10.out_projection", "…10.out_projection"),
        ("transformer.abcdefghijklmn.projection", "…projection"),
        ("transformer.abcdefghijklm.projection", "…abcdefghijklm.projection"),
        ("a_name_that_is_one_very_long_segment", "…is_one_very_long_segment"),
    ],
)
def test_long_names_keep_their_last_segments(name: str, shown: str) -> None:
    recording = make_recording({name: [1.0]})
    axes = plot_depth(recording).axes_[0]
    assert axes.xaxis.get_major_formatter()(0) == shown


def test_places_have_names_and_what_lies_between_has_none() -> None:
    formatter = make_display(3).plot().axes_[0].xaxis.get_major_formatter()
    assert [formatter(x) for x in (-1, 0, 0.5, 2, 3)] == ["", "layer0", "", "layer2", ""]


def test_the_legend_hides_no_curve() -> None:
    runs = {f"an_initialization_with_a_name_{i}": make_recording({"0": [1.0]}) for i in range(8)}
    display = CompareDisplay.from_recordings(runs).plot()
    display.figure_.draw_without_rendering()
    (legend,) = display.figure_.legends
    box, whole = legend.get_window_extent(), display.figure_.bbox
    assert box.x0 >= whole.x0
    assert box.x1 <= whole.x1
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in display.axes_)
