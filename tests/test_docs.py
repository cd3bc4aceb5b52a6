"""Documents: what they name is there, a path in the repository or a function in the package."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
WITH_NAMES = ["architecture.md", "glossary.md"]
# What is committed; `results/` and `build/` are made.
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir()} - {
    "results",
    "resources",
    "build",
}
MADE = ("build/", "results/")
# What a reader is told to write, in documents that say how.
EXAMPLES = {"studies/mine"}
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)[^)\s]*\)")
NAME = re.compile(r"\w+(\.\w+)+")
PLACEHOLDER = re.compile(r"<\w+>")


def named_paths(document: Path) -> list[tuple[str, Path]]:
    """Paths in a document, as they stand there and as patterns below the root: targets of links,
    and words of code that begin with a folder of the repository."""
    text = document.read_text(encoding="utf-8")
    found = [
        (target, (document.parent / target).resolve())
        for target in LINK.findall(text)
        if ":" not in target
    ]
    for word in (word for code in CODE.findall(text) for word in code.split()):
        if word.partition("/")[0] in FOLDERS and "/" in word and word not in EXAMPLES:
            found.append((word, ROOT / word))
    return [(shown, path) for shown, path in found if path.is_relative_to(ROOT)]


def is_there(path: Path) -> bool:
    """Whether anything matches a path in which `<word>` stands for one name."""
    pattern = PLACEHOLDER.sub("*", str(path.relative_to(ROOT)))
    return pattern.startswith(MADE) or any(ROOT.glob(pattern))


def test_paths_are_found_in_documents():
    assert len(named_paths(ROOT / "docs" / "architecture.md")) > 20


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_that_a_document_names_are_there(document):
    missing = [shown for shown, path in named_paths(document) if not is_there(path)]
    assert not missing, f"{document.name} names what is not there: {', '.join(missing)}"


def resolved(name: str) -> object:
    """What a dotted name stands for: modules of the package first, then what they hold.

    Raises AttributeError or ModuleNotFoundError where there is no such thing.
    """
    parts = name.split(".")
    found = importlib.import_module(f"stalegrad.{parts[0]}")
    for i, part in enumerate(parts[1:], start=2):
        if not hasattr(found, part) and hasattr(found, "__path__"):
            importlib.import_module(f"stalegrad.{'.'.join(parts[:i])}")
        fields = getattr(found, "__dataclass_fields__", getattr(found, "model_fields", {}))
        found = fields[part] if part in fields else getattr(found, part)
    return found


def names_of(document: str) -> list[str]:
    """Dotted names of the package in a document: those that begin with one of its modules."""
    package = ROOT / "src" / "stalegrad"
    modules = {path.stem for path in package.iterdir()}
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    words = [word for word in CODE.findall(text) if NAME.fullmatch(word)]
    names = [word for word in words if word.partition(".")[0] in modules]
    return sorted({name for name in names if not name.endswith(".py")})


@pytest.mark.parametrize("document", WITH_NAMES)
def test_functions_that_a_document_names_are_there(document):
    names = names_of(document)
    assert len(names) > 10
    missing = []
    for name in names:
        try:
            resolved(name)
        except (AttributeError, ImportError):
            missing.append(name)
    assert not missing, f"docs/{document} names what is not there: {', '.join(missing)}"


def test_the_architecture_names_all_packages_in_the_order_that_is_tested():
    """The table of packages, the source and `tests/test_config.py` say the same."""
    from test_config import ORDER

    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", text, flags=re.MULTILINE)
    package = ROOT / "src" / "stalegrad"
    there = [*package.glob("*.py"), *(init.parent for init in package.glob("*/__init__.py"))]
    assert set(table) == {path.stem for path in there if not path.stem.startswith("__")}
    place = {name: i for i, names in enumerate(ORDER) for name in names}
    assert table == sorted(table, key=place.__getitem__)
