"""Paths as users write them, in settings, on the command line and in the environment."""

import os
import re
from pathlib import Path

_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")


def expanded(text: str) -> str:
    """The path that `text` stands for: `~` and `~user` at its start are home folders, `$NAME` and
    `${NAME}` variables of the environment.

    Every path that a user writes is read here, once, so that it means the same to all that use it.
    Raises ValueError, with what is wrong as half a sentence, where it is empty, or a variable or a
    user is not known.
    """
    if not text.strip():
        raise ValueError("it must be a path, and not empty")
    if "\0" in text:
        raise ValueError("a path holds no zero byte")
    path = os.path.expanduser(_VARIABLE.sub(_value, text))
    # Libraries expand once more what begins so; `./~` is the same path.
    if str(Path(path)).startswith("~"):
        raise ValueError(
            f"no home folder is known for {Path(path).parts[0]!r}; write the whole path"
        )
    return path


def read_path(text: str) -> Path:
    return Path(expanded(text))


def folder_to_make(text: str) -> str:
    """`expanded`, of a folder that is there or can be made.

    Raises ValueError also where something else is in its place, or in that of a folder above it.
    """
    path = Path(expanded(text))
    check_folder(path)
    return str(path)


def check_folder(path: Path) -> None:
    """Raises ValueError, with what is wrong as half a sentence, where `path` is neither a folder
    nor can be made one."""
    for place in (path, *path.parents):
        try:
            if place.is_dir():
                break
            if place.is_symlink():
                raise ValueError(f"{place} is a link to {os.readlink(place)}, which is no folder")
            if place.exists():
                raise ValueError(f"{place} is no folder")
        except OSError as error:
            raise ValueError(f"{place} cannot be used: {error.strerror}") from None


def _value(match: re.Match) -> str:
    name = match[1] or match[2]
    if name not in os.environ:
        raise ValueError(f"there is no variable {name!r} in the environment; write the whole path")
    return os.environ[name]
