"""Validated, frozen descriptions of what a cell is made of: problem, update rule, cluster.

Each kind is a package (`problems`, `rules`, `clusters`) and each choice one module in it whose
name is the name used in configuration. The module defines one class decorated with `spec`; adding
a choice is adding that file. The class is a frozen dataclass whose fields are the configuration
keys, so that a misspelt key, a wrong type or a value out of range is refused where it is read.
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, dataclass_transform, get_args

import pydantic
import pydantic.dataclasses
from pydantic_core import ArgsKwargs

from stalegrad.io.errors import ConfigError

T = TypeVar("T")
STRICT = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass_transform(
    kw_only_default=True,
    frozen_default=True,
    field_specifiers=(dataclasses.field, pydantic.Field),
)
def spec(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass that validates its fields and refuses unknown keys."""
    made = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)(cls)
    return cast("type[T]", made)  # whose type forgets what class it was made of


def names(kind: str) -> list[str]:
    """The choices there are for `kind` (`problems`, `rules` or `clusters`), sorted."""
    package = importlib.import_module(f"stalegrad.{kind}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name[0] != "_")


@functools.cache
def spec_class(kind: str, name: str) -> type[Any]:
    """The class that the module `stalegrad.<kind>.<name>` defines. Raises LookupError where it is
    none of the `names`."""
    if name not in names(kind):
        raise LookupError(name)
    module = importlib.import_module(f"stalegrad.{kind}.{name}")
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and dataclasses.is_dataclass(value)
    ]
    if len(classes) != 1:
        raise TypeError(f"{module.__name__} must define exactly one spec, not {len(classes)}.")
    return classes[0]


def name_of(value: Any) -> str:
    """The name a spec goes by: that of its module, as in configuration, without an underscore in
    front. Of a class that is none of the package, `module.Class`, which no choice is called."""
    cls = type(value)
    module = cls.__module__.rpartition(".")[2]
    return module.lstrip("_") if is_of_package(cls) else f"{module}.{cls.__qualname__}"


def is_of_package(thing: Any) -> bool:
    """Whether a class or function is defined in a module of this package."""
    return (getattr(thing, "__module__", None) or "").partition(".")[0] == __package__


def parse(kind: str, keys: Any, *, where: str, key: str) -> Any:
    """Build the spec that `keys`, a mapping with a `name`, describes.

    `where` and `key` say where the mapping stands, for the error: a `ConfigError` that names
    file, key, value and what is allowed.
    """
    if not isinstance(keys, Mapping) or not isinstance(keys.get("name"), str):
        raise ConfigError(
            f"{where}: '{key}' is {keys!r}; it must be a mapping with a 'name', one of: "
            f"{', '.join(names(kind))}."
        )
    try:
        cls = spec_class(kind, keys["name"])
    except LookupError:
        raise ConfigError(
            f"{where}: '{key}.name' is {keys['name']!r}, which is not known; choose one of: "
            f"{', '.join(names(kind))}."
        ) from None
    arguments = {str(k): v for k, v in keys.items() if k != "name"}
    return validate(cls, arguments, where=where, key=key)


def validate(cls: type, values: Any, *, where: str, key: str = "") -> Any:
    """`cls` built from plain `values`, or one `ConfigError` that lists everything wrong."""
    try:
        return cls(**values)
    except pydantic.ValidationError as error:
        lines = [_sentence(cls, problem, key) for problem in error.errors()]
        raise ConfigError("\n".join(f"{where}: {line}" for line in lines)) from None


def describe(value: Any) -> dict[str, Any]:
    """A spec as a plain mapping with its name first; the inverse of `parse`."""
    return {"name": name_of(value), **_serializer(value.__class__).dump_python(value)}


def choice(what: str, *classes: type, optional: bool = False) -> pydantic.BeforeValidator:
    """Reads a field that holds one of some specs, told apart by their field `name`.

    It takes the mapping of a configuration as well, and leaves a spec as it is. what: what such a
    spec is, for the error, such as 'a distribution'. optional: there may be none.
    """
    by_name = {vars(cls)["name"]: cls for cls in classes}

    def read(keys: Any) -> Any:
        if isinstance(keys, classes) or (optional and keys is None):
            return keys
        if not isinstance(keys, Mapping) or keys.get("name") not in tuple(by_name):
            raise ValueError(
                f"{what} is a mapping with a 'name', one of: {', '.join(sorted(by_name))}"
            )
        cls = by_name[keys["name"]]
        allowed = [field.name for field in dataclasses.fields(cls) if field.name != "name"]
        unknown = [key for key in keys if key not in ("name", *allowed)]
        if unknown:
            only = f", only {', '.join(allowed)}" if allowed else ""
            raise ValueError(f"{keys['name']} has no parameter {unknown[0]!r}{only}")
        # Errors inside come out under this field's name, then the parameter's.
        return cls(**keys)

    return pydantic.BeforeValidator(read)


def files(value: Any) -> tuple[Path, ...]:
    """The files that a spec names, such as a trace of compute times; mostly none.

    They are what its method `files` gives, where it has one. Their content enters the hash of a
    cell, and a file that changes makes what was computed of it out of date.
    """
    return tuple(map(Path, value.files())) if hasattr(value, "files") else ()


def code(value: Any) -> tuple[Any, ...]:
    """The classes and functions that decide what a spec computes: its own class, and those that its
    method `code` gives, where it has one."""
    return (type(value), *(value.code() if hasattr(value, "code") else ()))


@functools.cache
def _serializer(cls: type) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(cls)


def without_defaults(value: Any) -> dict[str, Any]:
    """`describe`, less the fields at their default.

    What content hashes are made of: a new option with a default leaves old hashes as they were.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(value)}
    return {k: v for k, v in describe(value).items() if k == "name" or v != defaults[k]}


def _sentence(cls: type, problem: Mapping[str, Any], prefix: str) -> str:
    parts = ([prefix] if prefix else []) + [str(part) for part in problem["loc"]]
    key, kind, message = ".".join(parts), problem["type"], problem["msg"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        allowed = _allowed_keys(cls, problem["loc"][:-1])
        hint = f"; allowed here: {', '.join(sorted(allowed))}" if allowed else ""
        return f"'{key}' is not a known key{hint}."
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"'{key}' is missing and has no default."
    value = problem["input"]
    if isinstance(value, str) and kind in ("float_type", "int_type"):
        return (
            f"'{key}' is the text {value!r}; a number is needed. (YAML reads 1e-3 as text: "
            f"write 0.001.)"
        )
    if isinstance(value, str) and kind == "list_type":
        shown = value if value.isprintable() else repr(value)
        return f"'{key}' is {value!r}; a list is needed, such as [{shown}]."
    if isinstance(value, ArgsKwargs):  # of a check of several keys together
        value = value.kwargs
    message = message.removeprefix("Value error, ")
    return f"'{key}' is {value!r}: {message[0].lower()}{message[1:].rstrip('.')}."


def _allowed_keys(cls: Any, loc: Iterable[Any]) -> list[str]:
    """The keys that the model at `loc` inside `cls` takes."""
    for part in loc:
        fields = _fields(cls)
        # A model is entered by the name of a field, dict[str, Model] by any key.
        cls = fields.get(part) if fields else next(reversed(get_args(cls)), None)
        if type(None) in get_args(cls):  # Model | None
            cls = next((a for a in get_args(cls) if _fields(a)), None)
    return list(_fields(cls) or ())


def _fields(cls: Any) -> dict[str, Any] | None:
    if isinstance(cls, type) and issubclass(cls, pydantic.BaseModel):
        return {name: field.annotation for name, field in cls.model_fields.items()}
    if dataclasses.is_dataclass(cls):
        return {field.name: field.type for field in dataclasses.fields(cls)}
    return None
