"""Notebooks: percent scripts, run by the interpreter that runs the pipeline, and shown as HTML.

Through the libraries and not their commands: these would read the user's own configuration, and
start whatever program a kernel called `python3` on JUPYTER_PATH names.
"""

import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import jupytext
import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter

from stalegrad.io.errors import ResultError
from stalegrad.io.files import write_atomically

_SECONDS_TO_START = 120
_TEMPLATES = Path(sys.prefix) / "share" / "jupyter" / "nbconvert" / "templates"

# nbconvert's page without what it would fetch from the network: require.js, which nothing here
# needs, and MathJax, unless there are formulas (offline, their source is shown then). Its pictures
# get the text that a notebook gives them for those who cannot see them.
_PAGE = """{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}
{%- if resources.formulas -%}{{ super() }}{%- endif -%}
{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block body_header -%}
{{ super() }}
{%- if resources.back -%}
<nav style="margin: 0 70px"><a href="{{ resources.back | e }}">All claims and figures</a></nav>
{%- endif -%}
{%- endblock -%}
{%- block data_png scoped -%}
{%- set width = output | get_metadata("width", "image/png") -%}
<div class="jp-RenderedImage jp-OutputArea-output {{ extra_class }}">
<img src="data:image/png;base64,{{ output.data["image/png"] | escape_html }}"
{%- if width %} width="{{ width }}"{% endif %}
 alt="{{ (output | get_metadata("alt", "image/png") or "Picture") | escape_html }}">
</div>
{%- endblock -%}
"""


class _OwnInterpreter(KernelSpecManager):
    """Knows one kernel: this interpreter."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def render_notebook(
    script: Path,
    ipynb: Path,
    html: Path,
    variables: Mapping[str, str] | None = None,
    *,
    back: str = "",
) -> None:
    """Run a percent script in the working directory and write it with what it shows.

    variables: of the environment it runs in, besides this process's; back: where a link at the top
    of the HTML leads, none if empty. Nothing of the user's own Jupyter, IPython or jupytext is
    read. The HTML needs no network, except for formulas in TeX. Raises ResultError where a cell
    fails, which names it, or where the kernel does.
    """
    notebook = jupytext.reads(script.read_text("utf-8"), fmt="py:percent")
    with tempfile.TemporaryDirectory() as folder:
        _run(notebook, script, Path(folder), _environment(folder) | dict(variables or {}))
    write_atomically(ipynb, nbformat.writes(notebook) + "\n")
    # Those of this installation come before any that JUPYTER_PATH adds.
    exporter = HTMLExporter(extra_template_basedirs=[str(_TEMPLATES)], raw_template=_PAGE)
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    resources = {
        "metadata": {"name": _title(prose) or script.parent.name},
        "formulas": any("$" in text or "\\(" in text for text in prose),
        "back": back,
    }
    page, _ = exporter.from_notebook_node(notebook, resources)
    write_atomically(html, page)


def _title(prose: Iterable[str]) -> str:
    """The first heading; empty if there is none."""
    lines = (line for text in prose for line in text.splitlines())
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), "")


def _environment(folder: str) -> dict[str, str]:
    """This process's, less what would have IPython run a user's own files."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONSTARTUP"}
    return kept | {"IPYTHONDIR": folder, "MPLBACKEND": "agg"}


def _run(
    notebook: nbformat.NotebookNode, script: Path, folder: Path, environment: dict[str, str]
) -> None:
    manager = AsyncKernelManager(
        kernel_spec_manager=_OwnInterpreter(), connection_file=str(folder / "kernel.json")
    )
    client = NotebookClient(
        notebook,
        km=manager,
        startup_timeout=_SECONDS_TO_START,
        resources={"metadata": {"path": os.getcwd()}},
    )
    log = folder / "kernel.log"
    try:
        with open(log, "wb") as said:
            client.execute(cleanup_kc=True, env=environment, stdout=said, stderr=said)
    except CellExecutionError as error:
        number = sum("outputs" in cell and bool(cell.execution_count) for cell in notebook.cells)
        raise ResultError(
            f"{script}: cell {number} of code failed with {error.ename}: {error.evalue}\n"
            f"{error.traceback}"
        ) from None
    except (DeadKernelError, RuntimeError) as error:
        ends = log.read_text("utf-8", "replace").strip().splitlines()[-5:]
        raise ResultError("\n".join([f"{script} could not be run: {error}", *ends])) from None
