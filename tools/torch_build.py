"""Chooses the build of PyTorch that fits this machine; prints what pip needs to take it.

    python tools/torch_build.py requirements-torch.lock --cpu-index URL [--index INDEX]

The usual build on Linux brings NVIDIA's CUDA libraries, several GB of them. Where there is no
NVIDIA driver the CPU build is taken from `--cpu-index`, if that answers soon and has the locked
versions for this Python. `--index` is the user's own word: an index, or 'usual' for the usual
build. What was chosen, and why, goes to the error stream. It runs before any package is there.
"""

import argparse
import platform
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/version")
SECONDS_TO_ANSWER = 5.0
USUAL = "usual"
SIZES = "its CUDA libraries make .venv about 5.6 GB, instead of 2"


def driver(module: Path = DRIVER) -> str:
    """What tells that there is an NVIDIA driver; empty if there is none."""
    if module.exists():
        return str(module)
    command = shutil.which("nvidia-smi")  # all that there is in some containers and in WSL
    if command is None:
        return ""
    try:
        asked = subprocess.run([command, "--list-gpus"], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "nvidia-smi" if asked.returncode == 0 and asked.stdout.strip() else ""


def lacking(index: str, versions: dict[str, str]) -> str:
    """Why an index cannot give these versions for this Python and machine; empty if it can."""
    for name, version in versions.items():
        try:
            listed = _read(f"{index.rstrip('/')}/{name}/")
        except (OSError, ValueError) as error:
            return f"{index} cannot be reached ({getattr(error, 'reason', error)})"
        if not _wheel(name, version).search(listed):
            return f"{index} has no {name} {version} for this Python and machine"
    return ""


def _read(url: str) -> str:
    """Raises OSError where it is not there within SECONDS_TO_ANSWER, which looking up a name or a
    slow answer could outlast by far."""
    found: list[str | OSError | ValueError] = []

    def read() -> None:
        try:
            with urllib.request.urlopen(url, timeout=SECONDS_TO_ANSWER) as answer:
                found.append(answer.read().decode("utf-8", "replace"))
        except (OSError, ValueError) as error:
            found.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_ANSWER)
    if not found:
        raise TimeoutError(f"no answer in {SECONDS_TO_ANSWER:g} s")
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def _wheel(name: str, version: str) -> re.Pattern[str]:
    """Of a file's name in an index, with or without a local version such as +cpu."""
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    local = r"(?:(?:\+|%2B)[a-z0-9.]+)?"
    machine = re.escape(platform.machine())
    return re.compile(rf"{name}-{re.escape(version)}{local}-{python}-[\w.-]*{machine}\.whl")


def locked(path: Path) -> dict[str, str]:
    """Versions by name, of a lock file without hashes."""
    found = re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text("utf-8"), re.MULTILINE)
    return dict(found)


def choose(index: str, cpu_index: str, versions: dict[str, str]) -> tuple[str, str]:
    """The index to take PyTorch from, empty for pip's own, and a sentence that says why."""
    if index == USUAL:
        return "", "The usual build of PyTorch is taken, as TORCH_INDEX says."
    if index:
        return index, f"PyTorch is taken from {index}, as TORCH_INDEX says."
    if sys.platform != "linux":
        return "", "The usual build of PyTorch is taken: it has CUDA on Linux alone."
    if found := driver():
        return (
            "",
            f"The usual build of PyTorch is taken: {found} shows an NVIDIA driver.",
        )
    if why := lacking(cpu_index, versions):
        return "", (
            f"The usual build of PyTorch is taken, though there is no NVIDIA driver: {why}."
            f" On x86-64 {SIZES}. TORCH_INDEX=<url> names another index."
        )
    return cpu_index, (
        f"The CPU build of PyTorch is taken, from {cpu_index}: there is no NVIDIA driver."
        f" TORCH_INDEX={USUAL} takes the one with CUDA."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lock", type=Path, help="the lock file of PyTorch")
    parser.add_argument("--cpu-index", required=True, metavar="URL")
    parser.add_argument("--index", default="", help=f"a URL or '{USUAL}'")
    options = parser.parse_args()
    index, why = choose(options.index, options.cpu_index, locked(options.lock))
    print(why, file=sys.stderr)
    if index:
        print(f"--index-url {index}")


if __name__ == "__main__":
    main()
