"""Source files of the package, read without importing them: what they import and what they define.

So the workflow knows, without importing anything, which code decides a result, and that every
figure, table and claim exists before hours of training are spent on it.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from stalegrad import specs
from stalegrad.io.errors import ConfigError

PACKAGE = Path(__file__).parents[1]
# What a package reads that is no Python: sources of the kernels, parts of the page.
_BESIDE = (".cpp", ".h", ".html", ".css", ".js")


def find_maker(kind: str, home: Path, name: str, make: str | None) -> tuple[Path, str]:
    """File and function that make a product of the study in `home`: `make`, or the study's own
    module of that kind and the product's own name.

    kind: `figures` or `tables`. The function of `make` is looked for in the study, then in
    `stalegrad.analysis`. Raises ConfigError where it is in neither.
    """
    module, _, function = (make or f"{kind}.{name}").rpartition(".")
    for folder in (home, PACKAGE / "analysis"):
        file = folder / f"{module}.py"
        if file.exists() and _defines(file, function):
            return file, function
    raise ConfigError(
        f"{home / 'study.yaml'}: '{kind}.{name}' is made by {function} in {home / module}.py, "
        f"which does not exist; write that function, or name another with 'make'."
    )


def check_imports(file: Path) -> None:
    """Raises ConfigError if a file is not valid Python, or imports a name that another module of
    the package, or of its study, does not define."""
    for node in _statements(parsed(file).body):
        if not isinstance(node, ast.ImportFrom):
            continue
        module, *members = _modules_named(node, file)
        beside = bool(node.level) and not file.is_relative_to(PACKAGE)
        if not beside and module.partition(".")[0] != PACKAGE.name:
            continue
        there = _file_of(module, file if beside else None)
        for name in members:
            known = there is not None and _defines(there, name.rpartition(".")[2])
            if not known and _file_of(name, file if beside else None) is None:
                raise ConfigError(
                    f"{file}, line {node.lineno}: it imports {name}, which does not exist; correct "
                    f"the name, or write it."
                )


def check_claims(file: Path) -> None:
    """Raises ConfigError if a claim of a module has no quotation."""
    for node in parsed(file).body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        marks = (m.func for m in node.decorator_list if isinstance(m, ast.Call))
        if any(_named(mark) == "claim" for mark in marks):
            quotation(ast.get_docstring(node), f"{file}, line {node.lineno}", node.name)


def quotation(docstring: str | None, where: str, claim: str) -> str:
    """The sentence that a claim tests: the text in quotation marks in the first paragraph of its
    docstring, from the first mark to the last. Raises ConfigError if the docstring does not open
    with a quotation."""
    first_paragraph = " ".join((docstring or "").partition("\n\n")[0].split())
    quoted = re.match("'(.+)'", first_paragraph)
    if quoted is None:
        raise ConfigError(
            f"{where}: the claim '{claim}' has no quotation; its docstring must open with the "
            f"sentence that it tests, in quotation marks ('...')."
        )
    return quoted[1]


@cache
def parsed(file: Path) -> ast.Module:
    """The syntax tree of a Python file. Raises ConfigError where it has none."""
    try:
        return ast.parse(file.read_text(encoding="utf-8"), str(file))
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ConfigError(f"{file}{line}: not readable as Python: {error}") from None


@cache
def imported(file: Path) -> frozenset[Path]:
    """The files of the package that importing a file, or calling what is in it, imports.

    A call of `specs.spec_class` imports what it names, or every choice there is. With a package
    come the sources in its folder that are no Python.
    """
    if file.suffix != ".py":
        return frozenset()
    found: set[Path] = set()
    if file.name == "__init__.py":
        found |= {path for path in file.parent.iterdir() if path.suffix in _BESIDE}
    tree = parsed(file)
    for node in _statements(tree.body):
        for name in _modules_named(node, file):
            found |= _files_of(name, file)
    if "spec_class" in file.read_text(encoding="utf-8"):
        found |= {path for node in ast.walk(tree) for path in _specs_loaded(node, file)}
    return frozenset(found)


@cache
def _defines(file: Path, name: str) -> bool:
    """Whether a module has a name, once it is imported."""
    return any(name in _bound(node) for node in _statements(parsed(file).body, inside=False))


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement of a module binds there."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    walked = (inner for target in targets if target for inner in ast.walk(target))
    return {inner.id for inner in walked if isinstance(inner, ast.Name)}


def _statements(body: Iterable[ast.stmt], inside: bool = True) -> Iterator[ast.stmt]:
    """All statements, nested ones included, without those for type checkers alone.

    inside: also those of functions and classes.
    """
    for node in body:
        yield node
        if isinstance(node, ast.If) and _named(node.test) == "TYPE_CHECKING":
            yield from _statements(node.orelse, inside)
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not inside:
            continue
        for inner in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(node, inner, ()), inside)
        for branch in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            yield from _statements(branch.body, inside)


def _modules_named(node: ast.stmt, file: Path) -> list[str]:
    """The modules that an import names; of `from a import b`, both `a` and `a.b`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    parents: tuple[str, ...] = ()
    if node.level and file.is_relative_to(PACKAGE):
        parents = file.relative_to(PACKAGE.parent).parts[: -node.level]
    module = ".".join([*parents, *([node.module] if node.module else [])])
    return [module, *(f"{module}.{alias.name}" for alias in node.names)]


def _files_of(module: str, importer: Path) -> set[Path]:
    """The file of a module of this package and those of the packages around it.

    Of a module beside a file that lies elsewhere, such as a rule in a user's own folder, that file.
    """
    root, *names = module.split(".")
    beside = importer.with_name(f"{module.rpartition('.')[2]}.py")
    elsewhere = not importer.is_relative_to(PACKAGE) and beside.exists()
    found = {beside} if elsewhere else set()
    if root != PACKAGE.name:
        return found
    for depth in range(1, len(names) + 1):
        path = PACKAGE.joinpath(*names[:depth])
        found |= {p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()}
    return found


def _file_of(module: str, importer: Path | None = None) -> Path | None:
    """The file of a module of this package, or of one beside its importer in a study; None where
    there is none."""
    if importer is not None:
        beside = importer.with_name(f"{module.removeprefix('.')}.py")
        return beside if beside.exists() else None
    path = PACKAGE.joinpath(*module.split(".")[1:])
    both = path.with_suffix(".py"), path / "__init__.py"
    return next((file for file in both if file.exists()), None)


def _specs_loaded(node: ast.AST, file: Path) -> set[Path]:
    """The modules that a call `spec_class(kind, name)` may load, where the kind is written out."""
    if not isinstance(node, ast.Call) or _named(node.func) != "spec_class":
        return set()
    kind, name = node.args
    if not isinstance(kind, ast.Constant) or not isinstance(kind.value, str):
        return set()
    if isinstance(name, ast.Constant) and isinstance(name.value, str):
        names = [name.value]
    else:
        names = specs.names(kind.value)
    return {path for each in names for path in _files_of(f"stalegrad.{kind.value}.{each}", file)}


def _named(node: ast.expr) -> str | None:
    """`name` of the expressions `name` and `module.name`."""
    return getattr(node, "id", None) or getattr(node, "attr", None)
