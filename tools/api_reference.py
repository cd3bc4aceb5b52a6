"""The reference of all packages, as HTML pages built by pdoc from the docstrings.

python tools/api_reference.py FOLDER
"""

import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

import stalegrad


def build(folder: Path) -> None:
    """Write `index.html` and a page for each module into `folder`.

    Docstrings are Markdown: plain text with `code`. A module that cannot be imported is an error.
    """
    # Types that pydantic names for type checkers alone cannot be looked up, and stay text.
    warnings.filterwarnings("ignore", message=".*type annotation", module="pdoc")
    warnings.filterwarnings("error", message="(Couldn't import|Error importing)")
    _list_all_modules()
    pdoc.render.configure(docformat="markdown", footer_text=f"stalegrad {stalegrad.__version__}")
    pdoc.pdoc("stalegrad", output_directory=folder)


def _list_all_modules() -> None:
    """Name the public modules of the package in its `__all__`, and import what that names already:
    pdoc shows nothing else of a package that has one."""
    names = list(getattr(stalegrad, "__all__", ()))
    for name in names:
        setattr(stalegrad, name, getattr(stalegrad, name))
    modules = [module.name for module in pkgutil.iter_modules(stalegrad.__path__)]
    stalegrad.__all__ = [*names, *(name for name in modules if not name.startswith("_"))]


if __name__ == "__main__":
    build(Path(sys.argv[1]))
