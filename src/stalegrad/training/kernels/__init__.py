"""C++ kernels, compiled on first use for the machine they run on."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

FLAGS = ("-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
ARCHITECTURE = "STALEGRAD_ARCHITECTURE"  # environment variable; `x86-64-v3` is AVX2


class KernelUnavailable(RuntimeError):
    """There is no compiler, or it refused; the message says which."""


def load(name: str) -> ctypes.CDLL:
    """The library compiled from `<name>.cpp` beside this file.

    It is compiled for this processor, or for the one that the environment variable
    `STALEGRAD_ARCHITECTURE` names in the compiler's terms. It is compiled once for each source
    (headers included), compiler and processor, and kept in the user's cache folder
    (`STALEGRAD_CACHE` overrides it), which nobody else may write to. Raises KernelUnavailable.
    """
    return _load(name, architecture())


def architecture() -> str:
    """The processor that `load` compiles for, as the compiler names it; `native` is this one."""
    return os.environ.get(ARCHITECTURE) or "native"


def compile_command(architecture: str) -> list[str]:
    """The command that compiles a library for `architecture`, without sources and output.

    Raises KernelUnavailable where there is no compiler.
    """
    return [*_compiler(), *FLAGS, _flag(architecture), "-shared", "-fPIC"]


@functools.cache
def _load(name: str, architecture: str) -> ctypes.CDLL:
    source, command = _source(name), compile_command(architecture)
    try:
        library = cache_folder() / f"{name}-{_fingerprint(source, command)}.so"
        if not library.exists():
            processor = "this processor" if architecture == "native" else architecture
            print(f"note: compiling the kernel {name} for {processor}, which takes a few seconds, "
                  f"once.", file=sys.stderr, flush=True)  # fmt: skip
            _compile(command, source, library)
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise KernelUnavailable(f"its library cannot be made or loaded: {error}") from None


def instruction_set(name: str) -> str:
    """The vector instructions that the kernel is built for: `AVX-512`, `AVX2`, `SSE2`, `NEON`
    or `none`. Its lanes, and with them the order of its sums, follow from them."""
    told = load(name).instruction_set
    told.restype = ctypes.c_char_p
    return told().decode()


def fingerprint(name: str) -> str:
    """A digest of the library that `load` returns, its compiler and the processor; if it cannot be
    compiled, the reason and the processor."""
    try:
        return _fingerprint(_source(name), compile_command(architecture()))
    except (KernelUnavailable, OSError) as error:
        return f"{error}, {_processor()}"


def _source(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.cpp")


def _compiler() -> list[str]:
    """The command that compiles C++, which may be several words (`ccache g++`)."""
    command = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not command:
        raise KernelUnavailable("no C++ compiler (g++ or clang++) was found")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise KernelUnavailable(f"CXX is {command!r}, which is no command: {error}") from None
    if not words:
        raise KernelUnavailable(f"CXX is {command!r}, which is no command")
    return words


def _flag(architecture: str) -> str:
    """The option that names the processor to compile for."""
    arm = platform.machine() in ("aarch64", "arm64")
    return f"-{'mcpu' if arm else 'march'}={architecture}"


def _compile(command: list[str], source: Path, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        beside = Path(folder) / library.name
        done = subprocess.run(
            [*command, str(source), "-o", str(beside)], capture_output=True, text=True
        )
        if done.returncode:
            lines = (done.stderr.strip() or "no message").splitlines()
            said = next((line for line in lines if "error" in line), lines[-1])
            compiler = shlex.join(_compiler())
            raise KernelUnavailable(f"{compiler} could not compile {source.name}: {said}")
        os.replace(beside, library)


def _fingerprint(source: Path, command: list[str]) -> str:
    asked = [*_compiler(), "--version"]
    version = subprocess.run(asked, capture_output=True, text=True).stdout
    sources = [source, *sorted(source.parent.glob("*.h"))]
    parts = [*(each.read_text() for each in sources), " ".join(command), version, _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What decides the instructions that -march=native allows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def cache_folder() -> Path:
    """A folder that only this user may write to, since its libraries are loaded and run."""
    if "STALEGRAD_CACHE" in os.environ:
        return _made_private(Path(os.environ["STALEGRAD_CACHE"]))
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    try:
        return _made_private(Path(base) / "stalegrad")
    except (OSError, KernelUnavailable):
        return _made_private(Path(tempfile.gettempdir()) / f"stalegrad-{os.getuid()}")


def _made_private(folder: Path) -> Path:
    """`folder`, created if need be. Raises KernelUnavailable if others can write to it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = folder.lstat()
    if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.getuid() or there.st_mode & 0o022:
        raise KernelUnavailable(
            f"its library would be kept in {folder}, which is a link, belongs to somebody else, or "
            f"can be written to by others; name a folder of your own with STALEGRAD_CACHE"
        )
    return folder
