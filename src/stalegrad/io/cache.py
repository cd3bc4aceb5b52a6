"""The folder for what is compiled on this machine: C++ kernels, Numba's loops, measured speeds."""

import os
import stat
import tempfile
from pathlib import Path

from stalegrad.io.paths import read_path

CACHE = "STALEGRAD_CACHE"  # environment variable


class CacheUnavailable(RuntimeError):
    """There is no folder to keep compiled code in; the message says why, as half a sentence."""


def cache_folder() -> Path:
    """A folder that is ours alone: whoever can write to it decides what is loaded and run.

    It is the one that the environment variable `STALEGRAD_CACHE` names; else `stalegrad` in the
    user's cache folder, or where that cannot be written to, one in the folder for temporary files.
    Raises CacheUnavailable.
    """
    if named := os.environ.get(CACHE):
        try:
            return _made_private(read_path(named))
        except (OSError, ValueError) as error:
            raise CacheUnavailable(
                f"its library would be kept in {named}, which {CACHE} names and which cannot be "
                f"made or written to: {error}; name another folder, or unset {CACHE}"
            ) from None
    last: Exception | None = None
    for place in (_of_user, _of_temporary_files):
        try:
            return _made_private(place())
        except (OSError, CacheUnavailable) as error:
            last = error
    if isinstance(last, CacheUnavailable):
        raise last
    raise CacheUnavailable(
        f"no folder for it can be written to ({last}); name one with {CACHE}"
    ) from None


def _of_user() -> Path:
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():  # any other is to be ignored
        return named / "stalegrad"
    home = Path(os.path.expanduser("~"))
    if not home.is_absolute():
        raise FileNotFoundError("this user has no home folder")
    return home / ".cache" / "stalegrad"


def _of_temporary_files() -> Path:
    return Path(tempfile.gettempdir()) / f"stalegrad-{os.getuid()}"


def _made_private(folder: Path) -> Path:
    """`folder`, made if need be. Raises CacheUnavailable where others can put files into it, and
    OSError where we cannot."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = folder.lstat()
    if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.getuid() or there.st_mode & 0o022:
        raise CacheUnavailable(
            f"its library would be kept in {folder}, which is a link, belongs to somebody else, or "
            f"can be written to by others; name a folder of your own with {CACHE}"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} cannot be written to")
    return folder
