"""Which commit source files are of, for provenance, where git can be believed."""

import os
import subprocess
from pathlib import Path

# They name a repository, whatever folder one is in; git sets them for a hook.
_OF_ANOTHER = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"),
    *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_GRAFT_FILE"),
    *("GIT_CEILING_DIRECTORIES", "GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS"),
    *("GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS", "GIT_REPLACE_REF_BASE"),
)
_SOURCES = ("*.py", "*.cpp", "*.h")
_SECONDS = 60


class _NoCommit(Exception):
    """The reason, in words."""


def commit_of(folder: Path) -> str:
    """The commit of the source files in `folder`, with '+' where one of them is not as it is there:
    changed, new, or ignored. 'unknown: ' and the reason where git does not say, or where the
    repository around the folder does not hold them.
    """
    try:
        head = _git(folder, "rev-parse", "--verify", "HEAD").strip()
        tracked = _git(folder, "ls-files", "-v", "--", *_SOURCES).splitlines()
        if not tracked:
            raise _NoCommit("the repository around the source does not hold it")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=all", "--", ".")
        new = _git(folder, "ls-files", "--others", "--", *_SOURCES)  # ignored ones too
    except _NoCommit as error:
        return f"unknown: {error}"
    # Of files marked 'assume unchanged' (in lower case) or 'skip worktree' (S), git looks at none.
    unseen = [line for line in tracked if line[0].islower() or line[0] == "S"]
    return head + ("+" if changed or new or unseen else "")


def _git(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            env=environment | {"LC_ALL": "C"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
        )
    except FileNotFoundError:
        raise _NoCommit("there is no git") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _NoCommit(f"git cannot be run ({error})") from None
    if done.returncode:
        said = next(iter(done.stderr.strip().splitlines()), f"exit status {done.returncode}")
        raise _NoCommit(f"git says: {said.removeprefix('fatal: ')}")
    return done.stdout
