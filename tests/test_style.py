"""Figures look alike on every machine: nothing of a user's matplotlib reaches them."""

import io
import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot

from stalegrad.analysis import style

# What users set: in a matplotlibrc, or by `matplotlib.rcParams`.
USERS = {
    "axes.grid": True,
    "axes.facecolor": "#eeeeee",
    "axes.formatter.use_locale": True,
    "axes.unicode_minus": False,
    "errorbar.capsize": 5.0,
    "figure.dpi": 300.0,
    "figure.facecolor": "#ffffcc",
    "figure.constrained_layout.w_pad": 0.5,
    "font.weight": "bold",
    "image.origin": "lower",
    "image.interpolation": "bilinear",
    "legend.loc": "upper left",
    "legend.framealpha": 0.1,
    "lines.antialiased": False,
    "lines.marker": "o",
    "patch.linewidth": 3.0,
    "path.sketch": (5.0, 50.0, 5.0),
    "pdf.compression": 0,
    "savefig.bbox": "tight",
    "savefig.transparent": True,
    "text.color": "#ff0000",
    "xtick.direction": "in",
    "ytick.minor.visible": True,
}


def drawn() -> tuple[bytes, ...]:
    """A heat map and a line with its legend, as PDF and as PNG."""
    found = []
    with style.style():
        figure, axes = style.panels(1, 2, 1.5)
        table = pd.DataFrame(np.linspace(-1, 1, 6).reshape(2, 3), ["a", "b"], [1, 2, 3])
        style.heatmap(axes[0, 0], table, cmap=style.ACCURACY_MAP, limits=(-1, 1))
        line = pd.DataFrame({"x": [1, 2, 3], "mean": [1, 3, 2], "min": [0, 2, 1], "max": [2, 4, 3]})
        style.band(axes[0, 1], line, "x", colour=style.COLOURS[0], label="a line")
        axes[0, 1].bar([1, 2], [1, 2], label="bars")
        axes[0, 1].legend()
        for kind in ("pdf", "png"):
            file = io.BytesIO()
            metadata = {"pdf": {"CreationDate": None}, "png": {"Software": None}}[kind]
            figure.savefig(file, format=kind, metadata=metadata)
            found.append(file.getvalue())
        pyplot.close(figure)
    return tuple(found)


@pytest.fixture(scope="module")
def wanted() -> tuple[bytes, ...]:
    with mpl.rc_context(mpl.rcParamsDefault):
        return drawn()


@pytest.mark.parametrize("key", USERS)
def test_a_users_key_changes_no_byte_and_holds_again(key, wanted):
    with mpl.rc_context({key: USERS[key]}):
        before = mpl.rcParams[key]
        assert drawn() == wanted
        assert mpl.rcParams[key] == before != mpl.rcParamsDefault[key]


@pytest.mark.parametrize("name", ["ggplot", "dark_background", "classic"])
def test_a_users_style_changes_no_byte(name, wanted):
    with mpl.style.context(name):
        assert drawn() == wanted


def test_a_users_backend_holds_again():
    pyplot.switch_backend("svg")
    try:
        with style.style():
            assert mpl.get_backend().lower() == "agg"
        assert mpl.get_backend() == "svg"
    finally:
        pyplot.switch_backend("agg")


@pytest.mark.parametrize("where", ["MATPLOTLIBRC", "MPLCONFIGDIR", "the folder one is in"])
def test_a_users_file_changes_no_byte(where, wanted, tmp_path):
    lines = [f"{key}: {text_of(value)}\n" for key, value in USERS.items()]
    (tmp_path / "matplotlibrc").write_text("".join(lines), encoding="utf-8")
    place = {where: str(tmp_path)} if where.isupper() else {}
    program = "import test_style, sys; sys.stdout.buffer.write(b''.join(test_style.drawn()))"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import matplotlib as m; assert m.rcParams['axes.grid']; {program}",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths} | place,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b"".join(wanted)


def text_of(value: object) -> str:
    """A value as a matplotlibrc has it."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value).removeprefix("#")
