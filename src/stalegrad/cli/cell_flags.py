"""A cell as flags: one for every field of its problem, rule and cluster, under the field's name.

Which there are depends on the parts that are chosen, by name or by the hash of a listed cell.
"""

import argparse
import dataclasses
import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stalegrad.cli.flags import Flags, distinct, grids_of, named_by_flag
from stalegrad.io.errors import ConfigError

if TYPE_CHECKING:
    from stalegrad.planning.cell import Cell

# The parts of a cell that are chosen by name, where the choices are, and what is taken unsaid.
PARTS = {"problem": "problems", "rule": "rules", "cluster": "clusters"}
USUAL = {"problem": "lenet5", "rule": "sgd", "cluster": "constant_delay"}


def add_choices(
    choice: argparse.ArgumentParser, arguments: Sequence[str], parts: Mapping[str, str] = PARTS
) -> dict[str, Any]:
    """Add the flags that choose problem, rule and cluster, or those of `parts` alone. Returns the
    cell as chosen so far.

    It comes as plain values, like those of `Cell.as_dict`: the listed cell's where `--hash` names
    one, the recorded one's where `--trace` does.
    """
    from stalegrad import specs

    group = choice.add_argument_group("a cell by its parts")
    for part, kind in parts.items():
        there = specs.names(kind)
        usual = f"{', '.join(there)}; default: {USUAL[part]}"
        group.add_argument(f"--{part}", choices=there, metavar="NAME", help=usual)
    options, _ = choice.parse_known_args(arguments)
    values = {part: {"name": USUAL[part]} for part in parts}
    if getattr(options, "trace", None) is not None:
        if options.hash is not None or options.study is not None:
            raise ConfigError("'--trace' and '--hash' both name a cell; leave one out.")
        values = recorded_values(options.trace)
    elif getattr(options, "hash", None) is not None:
        values = _listed_cell(options).as_dict()
    elif getattr(options, "study", None) is not None:
        raise ConfigError("'--study' is given without '--hash', which says which of its cells.")
    for part in parts:
        name = getattr(options, part)
        if name is not None and name != values[part]["name"]:
            values[part] = {"name": name}
    return values


def recorded_values(file: Path) -> dict[str, Any]:
    """The cell that a trace is a recording of, to be replayed, as plain values.

    Raises DataError where the file is no trace, ConfigError where it does not say its cell.
    """
    from stalegrad.io.traces import read_trace

    try:
        recorded = dict(json.loads(read_trace(file).about["cell"]))
    except (KeyError, ValueError, TypeError):
        raise ConfigError(
            f"{file} does not say in a line '# cell: ...' what was trained; give problem, rule and "
            f"the other flags, with '--cluster trace --file {file}'."
        ) from None
    return recorded | {"cluster": {"name": "trace", "file": str(file)}}


def _listed_cell(options: argparse.Namespace) -> "Cell":
    if options.study is None:
        raise ConfigError("'--hash' names a cell of a study; say which with '--study'.")
    found = [c for h, c in distinct(grids_of(options)).items() if h.startswith(options.hash)]
    if len(found) != 1:
        raise ConfigError(
            f"'--hash' is {options.hash!r}, with which {len(found) or 'no'} runs of "
            f"{options.study} at {options.preset} begin; `stalegrad cells --study {options.study} "
            f"--preset {options.preset}` lists them."
        )
    return found[0]


def add_cell_flags(
    parser: argparse.ArgumentParser,
    chosen: Mapping[str, Any],
    parts: Mapping[str, str] = PARTS,
) -> None:
    """A flag for every field of a cell and of its `parts`, under the field's name."""
    from stalegrad import specs
    from stalegrad.planning.cell import Cell

    add_fields(parser.add_argument_group("numbers of the cell"), Cell, "", skip=PARTS)
    for part, kind in parts.items():
        name = chosen[part]["name"]
        group = parser.add_argument_group(f"{part} {name}")
        add_fields(group, specs.spec_class(kind, name), f"{part}.")
    parser.add_argument_group("anything").add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key by its full name, such as rule.momentum=0.9; values may be JSON",
    )


def add_fields(group: Flags, cls: type[Any], prefix: str, skip: Iterable[str] = ()) -> None:
    """A flag for every field of a spec, under its name; their keys begin with `prefix`."""
    texts = field_texts(cls)
    for field in dataclasses.fields(cls):
        if field.name in skip:
            continue
        text = texts.get(field.name, "")
        if field.default is not dataclasses.MISSING:
            text = f"{text} (default: {json.dumps(field.default, default=str)})".strip()
        keywords: dict[str, Any] = {"type": _value, "metavar": "VALUE"}
        if field.type is bool:
            keywords = {"action": argparse.BooleanOptionalAction}
        group.add_argument(
            _flag(field.name),
            dest=prefix + field.name,
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
            **keywords,
        )


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def field_texts(cls: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of its fields, as `name, name: text`."""
    names = "|".join(re.escape(field.name) for field in dataclasses.fields(cls))
    texts: dict[str, str] = {}
    for each in cls.__mro__:
        parts = re.split(
            rf"\b((?:{names})(?:, (?:{names}))*): ", inspect.cleandoc(each.__doc__ or "")
        )
        for mentioned, text in zip(parts[1::2], parts[2::2], strict=True):
            text = " ".join(text.partition("\n\n")[0].split()).rstrip(".;")
            texts = {name: text for name in mentioned.split(", ")} | texts
    return texts


def _value(text: str) -> Any:
    """A typed value: JSON where it is JSON (1e-3, true, null, {...}), a number, else text."""
    for read in (json.loads, float):
        with suppress(ValueError):
            return read(text)
    return text


def cell_of(options: argparse.Namespace) -> "Cell":
    """The cell that the flags of `run` describe. Raises ConfigError naming the flags."""
    from stalegrad.planning.cell import parse_cell

    where = "command line"
    values = values_of(options, where)
    with named_by_flag(_flags_of(options.chosen)):
        return parse_cell(values, where)


def values_of(options: argparse.Namespace, where: str) -> dict[str, Any]:
    """The cell that flags describe, as plain values."""
    from stalegrad.planning.cell import Cell
    from stalegrad.planning.expand import with_keys

    given = vars(options)
    fields = {f.name for f in dataclasses.fields(Cell)} - PARTS.keys()
    keys = {k: v for k, v in given.items() if k in fields or "." in k}
    for setting in options.set:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"'--set' is {setting!r}; it must be KEY=VALUE.")
        keys[key] = _value(text)
    return with_keys(options.chosen, keys, where)


def _flags_of(chosen: Mapping[str, Any]) -> dict[str, str]:
    """Key as an error names it -> flag."""
    from stalegrad import specs

    return flags_of({p: specs.spec_class(kind, chosen[p]["name"]) for p, kind in PARTS.items()})


def flags_of(classes: Mapping[str, type[Any]]) -> dict[str, str]:
    """Key as an error names it -> flag, where the parts of the cell are of these classes."""
    from stalegrad.planning.cell import Cell

    flags = {f.name: _flag(f.name) for f in dataclasses.fields(Cell)}
    for part, cls in classes.items():
        flags |= {f"{part}.{f.name}": _flag(f.name) for f in dataclasses.fields(cls)}
    return flags
