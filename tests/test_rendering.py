"""Notebooks on other people's Jupyter: run by this interpreter, whatever is installed there."""

import itertools
import json
import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from browser import CHROMIUM, Page, browser
from packages import need

from stalegrad.io.errors import ResultError
from stalegrad.report.rendering import render_notebook

SCRIPT = """# ---
# jupyter:
#   kernelspec:
#     display_name: Another
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A title

# %%
import os, sys
print(sys.executable, os.environ["STALEGRAD_RESULTS"], os.getcwd())

# %%
{last}
"""


def foreign_kernel(folder: Path) -> dict[str, str]:
    """A kernel `python3` of a Python that is not there."""
    place = folder / "jupyter" / "kernels" / "python3"
    place.mkdir(parents=True)
    spec = {"argv": ["/opt/gone/python", "-f", "{connection_file}"], "language": "python"}
    (place / "kernel.json").write_text(json.dumps(spec | {"display_name": "Gone"}))
    return {"JUPYTER_PATH": str(folder / "jupyter")}


def foreign_template(folder: Path) -> dict[str, str]:
    """nbconvert's template `lab`, of another version."""
    place = folder / "jupyter" / "nbconvert" / "templates" / "lab"
    place.mkdir(parents=True)
    (place / "conf.json").write_text('{"base_template": "base"}')
    (place / "index.html.j2").write_text("{% include 'gone.j2' %}")
    return {"JUPYTER_PATH": str(folder / "jupyter")}


def users_jupytext(folder: Path) -> dict[str, str]:
    (folder / "jupytext.toml").write_text('formats = "md"\ncell_markers = "+++"\nnot a key\n')
    return {"XDG_CONFIG_HOME": str(folder), "JUPYTER_CONFIG_DIR": str(folder)}


def users_configuration(folder: Path) -> dict[str, str]:
    for name in ("jupyter_nbconvert_config", "jupyter_client_config", "jupyter_config"):
        (folder / f"{name}.py").write_text("raise SystemExit('a user\\'s configuration')\n")
    return {"JUPYTER_CONFIG_DIR": str(folder), "JUPYTER_CONFIG_PATH": str(folder)}


def users_ipython(folder: Path) -> dict[str, str]:
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("print('from the startup')\n")
    (startup.parent / "ipython_config.py").write_text(
        "c.InteractiveShellApp.exec_lines = ['raise SystemExit']\n"
    )
    return {"IPYTHONDIR": str(folder)}


def users_python(folder: Path) -> dict[str, str]:
    (folder / "startup.py").write_text("print('from the startup')\n")
    return {"PYTHONSTARTUP": str(folder / "startup.py")}


def no_home(folder: Path) -> dict[str, str]:
    return {"HOME": "/dev/null/none", "XDG_RUNTIME_DIR": "/dev/null/none"}


def another_display(folder: Path) -> dict[str, str]:
    return {"MPLBACKEND": "tkagg"}


HOSTILE = [
    *(foreign_kernel, foreign_template, users_jupytext, users_configuration),
    *(users_ipython, users_python, no_home, another_display),
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_notebooks_run_in_this_interpreter_whatever_is_installed(hostile, tmp_path, monkeypatch):
    for name, value in hostile(tmp_path).items():
        monkeypatch.setenv(name, value)
    script, ipynb, html = (tmp_path / f"a notebook.{kind}" for kind in ("py", "ipynb", "html"))
    script.write_text(SCRIPT.format(last="from matplotlib import pyplot; pyplot.figure(); 6 * 7"))
    render_notebook(script, ipynb, html, {"STALEGRAD_RESULTS": "over there"})
    title, first, last = nbformat.read(ipynb, 4).cells
    assert [output.text for output in first.outputs] == [
        f"{sys.executable} over there {os.getcwd()}\n"
    ]
    assert last.outputs[-1].data["text/plain"] == "42"
    assert "A title" in html.read_text() and "over there" in html.read_text()


def test_a_cell_that_fails_is_named_and_nothing_is_written(tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text(SCRIPT.format(last="raise ValueError('too few runs')"))
    with pytest.raises(ResultError) as refusal:
        render_notebook(
            script, tmp_path / "a.ipynb", tmp_path / "a.html", {"STALEGRAD_RESULTS": ""}
        )
    said = str(refusal.value)
    assert said.startswith(f"{script}: cell 2 of code failed with ValueError: too few runs\n")
    assert not list(tmp_path.glob("a.*"))


def test_a_kernel_that_dies_is_reported(tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text(SCRIPT.format(last="os._exit(3)"))
    with pytest.raises(ResultError, match="notebook.py could not be run: "):
        render_notebook(
            script, tmp_path / "a.ipynb", tmp_path / "a.html", {"STALEGRAD_RESULTS": ""}
        )


TOLD = """# %% [markdown]
# # A title: of *two* words
# {prose}

# %%
from matplotlib import pyplot
from stalegrad.report.notebooks import show
figure, axes = pyplot.subplots()
axes.set(xlabel="delay < 4", ylabel="loss")
show(figure)
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if not any(map(shutil.which, CHROMIUM)):
        need(CHROMIUM[:1], "chromium")
    with browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


def rendered(folder: Path, prose: str) -> Path:
    script, html = folder / "notebook.py", folder / "notebooks" / "a.html"
    html.parent.mkdir()
    script.write_text(TOLD.format(prose=prose))
    render_notebook(script, html.with_suffix(".ipynb"), html, back="../index.html#a")
    return html


def test_a_notebook_opens_in_a_browser_without_network(chromium, tmp_path):
    (tmp_path / "index.html").write_text("<title>all</title><a href='notebooks/a.html'>it</a>")
    rendered(tmp_path, "Nothing but words.")
    chromium.problems.clear(), chromium.asked.clear()
    chromium.open(tmp_path / "index.html")
    chromium.run("document.querySelector('a').click()")
    chromium.until("document.title === 'A title: of *two* words'")
    chromium.until("document.readyState === 'complete'")
    pictures = "[...document.images].map(i => [i.alt, i.naturalWidth > 100, i.width > 100])"
    assert chromium.run(pictures) == [["Figure: loss over delay < 4.", True, True]]
    assert chromium.problems == []
    assert [url for url in chromium.asked if not url.startswith(("file:", "data:", "about:"))] == []
    chromium.run("document.querySelector('nav a').click()")
    chromium.until("document.title === 'all' && location.hash === '#a'")


@pytest.fixture
def answered():
    """A page that is answered as told: what it says to that is read from nowhere."""
    pipes = [os.pipe() for _ in range(2)]

    def page(*answers: dict) -> Page:
        texts = [json.dumps({"id": i, **each}).encode() for i, each in enumerate(answers, 1)]
        os.write(pipes[1][1], b"".join(text + b"\0" for text in texts))
        return Page(pipes[0][1], pipes[1][0])

    yield page
    for end in itertools.chain(*pipes):
        os.close(end)


LEFT = {"error": {"code": -32000, "message": "Inspected target navigated or closed"}}
TRUE = {"result": {"result": {"type": "boolean", "value": True}}}


def test_a_page_that_is_left_is_asked_again(answered):
    assert answered(LEFT, LEFT, TRUE).until("location.hash === '#a'") is True


def test_another_error_of_the_browser_is_one(answered):
    page = answered({"error": {"code": -32000, "message": "Cannot find context"}}, TRUE)
    with pytest.raises(AssertionError, match="Cannot find context"):
        page.until("location.hash === '#a'")


def test_formulas_bring_what_sets_them(tmp_path):
    """Without network their source is read."""
    assert "mathjax" in rendered(tmp_path, "It is $n/K$.").read_text().lower()
