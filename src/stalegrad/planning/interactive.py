"""What is written in a notebook or at a prompt, in no file: its source, and what that leans on.

A class or function of a module is known by the file of that module. One that is defined in a
notebook is known by its text, by the texts of the other definitions that it names, and by the
values of the variables that it reads.
"""

import ast
import dataclasses
import dis
import functools
import hashlib
import inspect
import linecache
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = Path(__file__).parents[1]
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_INSTALLED = tuple(
    {Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
)


@dataclasses.dataclass(frozen=True)
class Written:
    """What decides what classes and functions compute.

    files: those they are written in, or that hold what a notebook uses, but none that is installed;
    texts: of what is in no file. unknown: why some of it cannot be had, or None.
    """

    files: frozenset[Path]
    texts: tuple[str, ...]
    unknown: str | None

    @property
    def digest(self) -> str | None:
        """Changes with `texts`, as far as they are known; None where all is in files."""
        texts = [*self.texts, *([self.unknown] if self.unknown else [])]
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16] if texts else None


def written(*things: Any) -> Written:
    """Of classes and functions, as they are now: a notebook may redefine what they name."""
    reader = _Reader()
    for thing in things:
        reader.read(thing, getattr(thing, "__name__", repr(thing)))
    return Written(frozenset(reader.files), tuple(reader.texts), reader.unknown)


def file_of(thing: Any) -> Path | None:
    """The file that a class or function is written in; None for a notebook or a prompt."""
    try:
        file = inspect.getfile(thing)
    except (TypeError, OSError):
        return None
    if thing.__module__ == "__main__":  # of which a prompt may be a part, after a script
        file = next((f.__code__.co_filename for f in _functions(thing)), file)
    return Path(file) if Path(file).is_file() else None


class _Reader:
    def __init__(self) -> None:
        self.files: set[Path] = set()
        self.texts: list[str] = []
        self.unknown: str | None = None
        self._seen: set[int] = set()

    def read(self, value: Any, name: str) -> None:
        """Add what `value`, called `name`, is made of."""
        if isinstance(value, _PLAIN):
            self.texts.append(f"{name} = {value!r}")
        elif id(value) not in self._seen:
            self._seen.add(id(value))
            self._read_new(value, name)

    def _read_new(self, value: Any, name: str) -> None:
        if isinstance(value, types.ModuleType):
            self._add_file(Path(file) if (file := getattr(value, "__file__", None)) else None)
        elif isinstance(value, type | types.FunctionType | types.MethodType):
            self._read_definition(value)
        elif isinstance(value, list | tuple | set | frozenset | dict):
            self.texts.append(f"{name}: {type(value).__name__}")
            items = value.items() if isinstance(value, dict) else enumerate(_in_order(value))
            for key, item in items:
                self.read(item, f"{name}[{key!r}]")
        elif dataclasses.is_dataclass(value):
            self.read(type(value), type(value).__name__)
            for field in dataclasses.fields(value):
                self.read(getattr(value, field.name), f"{name}.{field.name}")
        elif hasattr(value, "__wrapped__"):
            self.read(value.__wrapped__, name)
        elif isinstance(value, functools.partial):
            for part in ("func", "args", "keywords"):
                self.read(getattr(value, part), f"{name}.{part}")
        elif type(value).__module__ in ("typing", "types") or _is_of_a_library(value):
            self.texts.append(f"{name}: {getattr(value, '__qualname__', repr(value))}")
        elif (content := _numbers(value)) is not None:
            self.texts.append(f"{name} = {content}")
        else:
            self.unknown = f"the content of '{name}', a {type(value).__qualname__}, is not known"

    def _read_definition(self, thing: Any) -> None:
        if (file := file_of(thing)) is not None:
            self._add_file(file)
            return
        if thing.__module__ != "__main__" and not list(_functions(thing)):
            return  # compiled, as `len` is
        if isinstance(thing, type):
            for base in thing.__bases__:
                self.read(base, base.__name__)
        functions = list(_functions(thing))
        if not functions:  # whose text cannot be found: a class of fields, which describe it
            self._read_attributes(thing)
            return
        nodes = _nodes(functions[0].__code__, thing.__name__)
        if not nodes:
            self.unknown = f"the source of '{thing.__qualname__}' cannot be had"
            return
        self.texts += map(ast.unparse, nodes)
        known = _visible(functions)
        read_in = {name for function in functions for name in _globals_read(function.__code__)}
        around = {name for node in nodes for name in _names_around(node)}
        for name in sorted(read_in | around | {*_captured(functions)}):
            if name in known:
                self.read(known[name], name)

    def _read_attributes(self, cls: type) -> None:
        fields = getattr(cls, "__dataclass_fields__", {})
        for name, value in vars(cls).items():
            if name not in fields and not name.startswith("__"):
                self.read(value, f"{cls.__qualname__}.{name}")

    def _add_file(self, file: Path | None) -> None:
        if file is None or file.suffix != ".py":
            return
        of_package = file.is_relative_to(PACKAGE)
        if of_package or not any(file.is_relative_to(folder) for folder in _INSTALLED):
            self.files.add(file)


def _functions(thing: Any) -> Iterator[types.FunctionType]:
    """A function itself; of a class, the functions written in its body and no generated ones."""
    if not isinstance(thing, type):
        function = inspect.unwrap(getattr(thing, "__func__", thing))
        if hasattr(function, "__code__"):
            yield function
        return
    for value in vars(thing).values():
        for name in ("wrapped", "__func__", "fget", "func"):  # a pydantic check, static, property
            value = getattr(value, name, value)
        function = inspect.unwrap(value) if callable(value) else value
        code = getattr(function, "__code__", None)
        if code is not None and code.co_qualname.startswith(f"{thing.__qualname__}."):
            yield function


def _nodes(code: types.CodeType, name: str) -> list[ast.AST]:
    """The definition called `name` in which a function's code stands; of a lambda, all in its line.
    None where there is no text."""
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename)))
    except (SyntaxError, ValueError):
        return []
    if name == "<lambda>":
        lambdas = (node for node in ast.walk(tree) if isinstance(node, ast.Lambda))
        return [node for node in lambdas if node.lineno == code.co_firstlineno]
    around: list[ast.AST] = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and node.name == name
        and min(each.lineno for each in (node, *node.decorator_list)) <= code.co_firstlineno
        and code.co_firstlineno <= (node.end_lineno or 0)
    ]
    return around[-1:]


def _globals_read(code: types.CodeType) -> set[str]:
    """The names that code, and code within it, looks up outside of it."""
    loads = ("LOAD_GLOBAL", "LOAD_NAME")
    found = {each.argval for each in dis.get_instructions(code) if each.opname in loads}
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return found.union(*map(_globals_read, inner))


def _names_around(node: ast.AST) -> Iterator[str]:
    """The names in a definition outside of the bodies of functions: bases, decorators, defaults."""
    if isinstance(node, ast.FunctionDef | ast.Lambda):
        given = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        children = [*given, *getattr(node, "decorator_list", ())]
    else:
        children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Name):
        yield node.id
    for child in children:
        yield from _names_around(child)


def _visible(functions: list[types.FunctionType]) -> dict[str, Any]:
    """The variables that functions may read beside their own: of their module, or captured."""
    return functions[0].__globals__ | _captured(functions)


def _captured(functions: list[types.FunctionType]) -> dict[str, Any]:
    known = {}
    for function in functions:
        captured = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        for name, cell in captured:
            try:
                known[name] = cell.cell_contents
            except ValueError:  # not yet assigned
                continue
    known.pop("__class__", None)
    return known


def _is_of_a_library(value: Any) -> bool:
    """Whether it is compiled, or what an installed module calls by its name, such as
    `torch.relu`."""
    if isinstance(value, types.BuiltinFunctionType):
        return True
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    named = getattr(module, getattr(value, "__name__", ""), None)
    return named is value and module is not None and module.__name__ != "__main__"


def _numbers(value: Any) -> str | None:
    """The digest of an array or tensor; None where it is none."""
    try:
        array = np.asarray(value)
    except Exception:  # whatever a class makes of being asked for numbers, it has none
        return None
    if array.dtype.hasobject:
        return None
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()


def _in_order(value: Any) -> Any:
    return sorted(value, key=repr) if isinstance(value, set | frozenset) else value
