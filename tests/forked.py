"""Python programs, each in a process of its own that begins with PyTorch imported, which takes a
second or two: it is forked from one process that has done so."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Reads programs by name, and writes what each said on its two streams and how it ended.
_PARENT = """
import json, os, sys, tempfile, traceback
import matplotlib.pyplot, numba, pandas, torch

def run(program):
    try:
        exec(compile(program, "a program", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

ends = {}
for name, program in json.load(sys.stdin).items():
    streams = [tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")]
    child = os.fork()
    if not child:
        for number, stream in enumerate(streams, start=1):
            os.dup2(stream.fileno(), number)
        run(program)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for stream in streams:
        stream.seek(0)
    ends[name] = [status, *(stream.read() for stream in streams)]
json.dump(ends, sys.stdout)
"""


@dataclass(frozen=True)
class Ended:
    """How a program ended: its status (negative for a signal), and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def run_all(
    programs: Mapping[str, str], folder: Path, path: Path | None = None
) -> dict[str, Ended]:
    """Run programs by name, in `folder`, warnings being errors.

    path: where they find modules, beside those that are installed.
    """
    environment = dict(os.environ)
    if path is not None:
        kept = filter(None, [str(path), environment.get("PYTHONPATH")])
        environment["PYTHONPATH"] = os.pathsep.join(kept)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PARENT],
        cwd=folder, env=environment, input=json.dumps(programs), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name: Ended(*end) for name, end in json.loads(done.stdout).items()}
