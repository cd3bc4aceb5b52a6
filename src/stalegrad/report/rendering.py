"""Notebooks: percent scripts, run by the interpreter that runs the pipeline, and shown as HTML.

Through the libraries and not their commands: these would read the user's own configuration, and
start whatever program a kernel called `python3` on JUPYTER_PATH names.
"""

import os
import sys
import tempfile
from collections.abc import Mapping
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


class _OwnInterpreter(KernelSpecManager):
    """Knows one kernel: this interpreter."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def render_notebook(
    script: Path, ipynb: Path, html: Path, variables: Mapping[str, str] | None = None
) -> None:
    """Run a percent script in the working directory and write it with what it shows.

    variables: of the environment it runs in, besides this process's. Nothing of the user's own
    Jupyter, IPython or jupytext is read. Raises ResultError where a cell fails, which names it, or
    where the kernel does.
    """
    notebook = jupytext.reads(script.read_text("utf-8"), fmt="py:percent")
    with tempfile.TemporaryDirectory() as folder:
        _run(notebook, script, Path(folder), _environment(folder) | dict(variables or {}))
    write_atomically(ipynb, nbformat.writes(notebook) + "\n")
    # Those of this installation come before any that JUPYTER_PATH adds.
    exporter = HTMLExporter(extra_template_basedirs=[str(_TEMPLATES)])
    page, _ = exporter.from_notebook_node(notebook)
    write_atomically(html, page)


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
