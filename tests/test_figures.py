"""Figures: drawn on made-up results with warnings as errors, the same bytes each time."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from helpers import home_of, of_study
from made_up import (
    STUDY,
    as_claimed,
    published_fig2,
    write_results,
    write_staleness,
    write_trajectory,
)
from matplotlib import pyplot
from matplotlib.text import Text

from stalegrad.analysis import figures as shared
from stalegrad.analysis import style
from stalegrad.analysis.products import maker

figures = of_study("jain2018", "figures")
PRESETS = {"paper": 1, "smoke": 2}  # with how many seeds


@pytest.fixture(autouse=True)
def styled():
    with style.style():
        yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Results of each preset: of `paper` as the paper claims, of `smoke` any."""

    def accuracy(cell, epoch):
        return (1 - 1 / (1 + epoch)) / (1 + cell.batch_size / 1000) / (1 + 0.001 * cell.seed)

    def results_at(preset):
        folder = tmp_path_factory.mktemp(preset)
        write_staleness(folder, workers=(4, 16) if preset == "smoke" else (2, 4, 8, 16, 257))
        write_trajectory(folder)
        function = as_claimed if preset == "paper" else accuracy
        return write_results(folder, function, preset=preset, seeds=PRESETS[preset])

    return {preset: results_at(preset) for preset in PRESETS}


def drawn(name, results):
    return maker("figures", home_of("jain2018"), name, STUDY.figures[name].make)(results)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", STUDY.figures)
def test_every_figure_is_drawn_within_its_page(name, preset, made):
    figure = drawn(name, made[preset])
    figure.draw_without_rendering()  # lays it out, and warns where that fails
    assert figure.get_size_inches()[0] in (style.WIDTH, style.HALF)
    tight = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert tight.x0 > -0.02 and tight.y0 > -0.02
    assert tight.x1 < width + 0.02 and tight.y1 < height + 0.02
    assert any(ax.has_data() for ax in figure.axes)
    assert not any("nan" in text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize("kind", ["pdf", "png"])
def test_the_same_results_give_the_same_bytes(kind, made, tmp_path):
    contents = []
    for i in range(2):
        path = tmp_path / f"{i}.{kind}"
        style.save(drawn("asynchronous", made["smoke"]), path)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith({"pdf": b"%PDF", "png": b"\x89PNG"}[kind])
    assert b"CreationDate" not in contents[0]
    assert b"Software" not in contents[0]


def test_a_style_ends_with_its_block():
    before = dict(mpl.rcParams)
    with style.style():
        assert mpl.rcParams["font.serif"] == ["STIXGeneral"]
        mpl.rcParams["font.size"] = 20
    after = dict(mpl.rcParams)
    assert after == before


def hatched(axes):
    """(row, column) of the hatched cells of a heat map."""
    boxes = [patch for patch in axes.patches if patch.get_hatch()]
    return {(round(box.get_y() + 0.5), round(box.get_x() + 0.5)) for box in boxes}


def numbered(axes):
    return {(round(t.get_position()[1]), round(t.get_position()[0])): t for t in axes.texts}


def test_a_heat_map_numbers_what_is_there_and_hatches_what_it_is_told():
    values = pd.DataFrame([[0.1, np.nan], [0.9, np.inf]], index=["a", "b"], columns=[64, 128])
    hatch = pd.DataFrame([[False, True], [False, False]])
    _, axes = style.panels(1, 1, 2.0)
    image = style.heatmap(axes[0, 0], values, cmap="cividis", limits=(0, 1), hatch=hatch)
    assert hatched(axes[0, 0]) == {(0, 1)}
    texts = {cell: text.get_text() for cell, text in numbered(axes[0, 0]).items()}
    assert texts == {(0, 0): "0.100", (1, 0): "0.900"}
    assert [label.get_text() for label in axes[0, 0].get_xticklabels()] == ["64", "128"]
    assert [label.get_text() for label in axes[0, 0].get_yticklabels()] == ["a", "b"]
    assert image.get_clim() == (0, 1)


def test_fig2_difference_hatches_exactly_the_unreadable_cells(made):
    published = pd.read_csv(made["paper"].home / "published" / "fig2.csv")
    figure = drawn("fig2_difference", made["paper"])
    for ax, delay in zip(figure.axes, [0, 1, 2, 4, 6, 8], strict=False):
        assert ax.get_title() == f"{delay} batch delay"
        here = published[published["delay"] == delay].pivot(
            index="lr", columns="batch_size", values="test_accuracy"
        )
        unread = {(int(r), int(c)) for r, c in np.argwhere(here.isna().to_numpy())}
        assert hatched(ax) == unread
        shown = numbered(ax)
        assert not unread & set(shown)
        assert len(shown) == 50 - len(unread)
        # The made-up results are the published ones.
        assert {text.get_text().strip("+-") for text in shown.values()} == {"0.00"}


def test_fig2_is_laid_out_as_the_paper_has_it(made):
    """Rates down the side, the smallest on top; batch sizes along the foot; a panel a delay."""
    figure = drawn("fig2", made["paper"])
    panels = [ax for ax in figure.axes if "batch delay" in ax.get_title()]
    assert [ax.get_title() for ax in panels] == [f"{d} batch delay" for d in (0, 1, 2, 4, 6, 8)]
    rates = [label.get_text() for label in panels[0].get_yticklabels()]
    assert rates[0] == "$10^{-5}$"
    assert rates[-1] == "$10^{-0.5}$"
    batches = [label.get_text() for label in panels[0].get_xticklabels()]
    assert batches == ["64", "128", "256", "512", "1024"]
    top_left = numbered(panels[0])[0, 0].get_text()
    assert top_left == "0.141"  # delay 0, rate 10^-5, batch 64
    corner = published_fig2()[8, 1024, -1]
    assert numbered(panels[5])[9, 4].get_text() == f"{corner:.3f}"


def luminance(colour):
    """Relative luminance of sRGB as the Web Content Accessibility Guidelines define it."""
    channel = np.asarray(mpl.colors.to_rgb(colour))
    linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("name", [style.ACCURACY_MAP, style.DIFFERENCE_MAP])
def test_numbers_on_every_colour_can_be_read(name):
    """A contrast of 4.5 to 1, which the guidelines ask of small text."""
    for colour in mpl.colormaps[name](np.linspace(0, 1, 101)):
        light, dark = sorted([luminance(colour), luminance(style.readable_on(colour))])[::-1]
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_a_band_spans_the_seeds():
    frame = pd.DataFrame(
        {"epoch": [1, 2], "mean": [0.5, 0.6], "min": [0.4, 0.5], "max": [0.7, 0.9]}
    )
    _, axes = style.panels(1, 1, 2.0)
    style.band(axes[0, 0], frame, "epoch", colour="black", label="a")
    assert axes[0, 0].lines[0].get_ydata().tolist() == [0.5, 0.6]
    corners = axes[0, 0].collections[0].get_paths()[0].vertices
    assert {(1.0, 0.4), (2.0, 0.5), (1.0, 0.7), (2.0, 0.9)} <= set(map(tuple, corners))


@pytest.mark.parametrize(
    ("rate", "label"),
    [
        (1e-5, "$10^{-5}$"),
        (0.0031623, "$10^{-2.5}$"),
        (0.31623, "$10^{-0.5}$"),
        (1.0, "$10^{0}$"),
        (0.003, "0.003"),
        (0.00003, "3e-05"),
        (0.02, "0.02"),
    ],
)
def test_rates_are_labelled_as_half_decades(rate, label):
    assert style.log10_label(rate) == label


def test_fig3_names_the_best_cell(made):
    """As made up, Adam trains up to rate 0.0001 and SGD not at all past delay 32."""
    titles = [ax.get_title() for ax in drawn("fig3", made["paper"]).axes]
    assert titles[1].startswith("Adam, delay 32: 0.9819 (batch 16, rate $10^{-5}$)")
    assert titles[0].startswith("SGD, delay 32: 0.9738 (batch 16, rate 0.0003)")
    assert titles[4].startswith("SGD, delay 256: 0.1130")


def test_front_marks_ours_beside_the_published(made):
    """Where ours are the published the two fronts are one."""
    figure = figures.front(made["paper"])
    for ax in figure.axes:
        published, ours = ax.lines
        assert published.get_label() == "published"
        assert np.allclose(published.get_ydata(), ours.get_ydata(), rtol=1e-3)


def test_fig1_bars_are_shares(made):
    figure = figures.fig1(made["smoke"])
    for ax, mean in zip(figure.axes, (3, 15), strict=False):
        (bars,) = ax.patches
        shares, edges, _ = bars.get_data()
        assert shares.sum() == pytest.approx(1, abs=0.01)
        assert shares @ (edges[:-1] + 0.5) == pytest.approx(mean, abs=0.3)


def test_learning_curves_of_any_study(made):
    figure = shared.learning_curves(made["smoke"])
    assert [ax.get_title() for ax in figure.axes] == [
        grid.replace("_", " ") for grid in made["smoke"].runs["grid"].unique()
    ]
    (line,) = figure.axes[list(STUDY.grids).index("asynchronous")].lines[:1]
    assert line.get_label().startswith("cluster constant")
    figure.draw_without_rendering()


def test_varying_columns_leave_out_seeds_and_results(made):
    runs = made["smoke"].grid("fig2")
    assert runs["seed"].nunique() == 2
    assert shared.varying_columns(runs) == ["lr", "delay", "batch_size"]
