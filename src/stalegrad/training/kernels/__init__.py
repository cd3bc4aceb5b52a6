"""C++ kernels, compiled on first use for the machine they run on."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from stalegrad.io.cache import CacheUnavailable, cache_folder

FLAGS = ("-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
ARCHITECTURE = "STALEGRAD_ARCHITECTURE"  # environment variable; `x86-64-v3` is AVX2


class KernelUnavailable(RuntimeError):
    """There is no compiler, or it refused; the message says which."""


def load(name: str) -> ctypes.CDLL:
    """The library compiled from `<name>.cpp` beside this file.

    It is compiled for this processor, or for the one that the environment variable
    `STALEGRAD_ARCHITECTURE` names in the compiler's terms. It is compiled once for each source
    (headers included), compiler and processor, and kept in the folder of `io.cache`; one that is
    damaged there is compiled again. Raises KernelUnavailable.
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
        start = f"{name}-{_fingerprint(source, command)}"
        library = _kept(start)
        if library is None:
            processor = "this processor" if architecture == "native" else architecture
            print(f"note: compiling the kernel {name} for {processor}, which takes a few seconds, "
                  f"once.", file=sys.stderr, flush=True)  # fmt: skip
            library = _compile(command, source, start)
        return ctypes.CDLL(str(library))
    except CacheUnavailable as error:
        raise KernelUnavailable(f"its library cannot be made or loaded: {error}") from None
    except OSError as error:
        raise KernelUnavailable(
            f"its library cannot be made or loaded: {error}{_asked_for()}"
        ) from None


def reason_against() -> str | None:
    """Why no kernel can be had here, as half a sentence; None where there are a compiler and a
    folder for what it makes. Compiles nothing."""
    try:
        compile_command(architecture())
        cache_folder()
    except (KernelUnavailable, CacheUnavailable) as error:
        return str(error)
    return None


def _kept(start: str) -> Path | None:
    """The library kept under a name of that start, which ends in the digest of what it holds; None
    where there is none. Those that hold something else, cut short or damaged, are removed."""
    for path in cache_folder().glob(f"{start}-*.so"):
        if path.name == _named(start, path.read_bytes()):
            return path
        path.unlink(missing_ok=True)
    return None


def _named(start: str, library: bytes) -> str:
    return f"{start}-{hashlib.sha256(library).hexdigest()[:16]}.so"


def instruction_set(name: str) -> str:
    """The vector instructions that the kernel is built for: `AVX-512`, `AVX2`, `SSE2`, `NEON`
    or `none`. Its lanes, and with them the order of its sums, follow from them."""
    told = load(name).instruction_set
    told.restype = ctypes.c_char_p
    return told().decode()


def compiled_by() -> str:
    """The command that kernels are compiled by, and the version of its compiler, in a line.

    Raises KernelUnavailable where there is none.
    """
    command = compile_command(architecture())
    version = _version().partition("\n")[0]
    return f"{shlex.join(command)} ({version})"


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
    command = os.environ.get("CXX")
    if not command:
        found = shutil.which("g++") or shutil.which("clang++")
        if not found:
            raise KernelUnavailable(
                "no C++ compiler (g++ or clang++) was found; install one, or name one with CXX"
            )
        return [found]
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise KernelUnavailable(
            f"CXX is {command!r}, which is no command: {error}; {_CORRECT_CXX}"
        ) from None
    if not words:
        raise KernelUnavailable(f"CXX is {command!r}, which is no command; {_CORRECT_CXX}")
    if shutil.which(words[0]) is None:
        raise KernelUnavailable(
            f"CXX is {command!r}, but {words[0]} is no program that can be run; {_CORRECT_CXX}"
        )
    return words


_CORRECT_CXX = "correct CXX, or unset it, so that g++ or clang++ is looked for"


def _asked_for() -> str:
    """What the environment asks for that may be why there is no library, with what to do."""
    asked = []
    if command := os.environ.get("CXX"):
        asked.append(f"CXX is {command!r}: {_CORRECT_CXX}")
    if processor := os.environ.get(ARCHITECTURE):
        asked.append(
            f"{ARCHITECTURE} is {processor!r}: name a processor as this compiler does, or unset it"
        )
    return f" ({'; '.join(asked)})" if asked else ""


def _flag(architecture: str) -> str:
    """The option that names the processor to compile for."""
    arm = platform.machine() in ("aarch64", "arm64")
    return f"-{'mcpu' if arm else 'march'}={architecture}"


def _compile(command: list[str], source: Path, start: str) -> Path:
    """The library, kept under a name that `_kept` finds."""
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        beside = Path(folder) / f"{start}.so"
        done = subprocess.run(
            [*command, str(source), "-o", str(beside)],
            capture_output=True,
            text=True,
            env=os.environ | {"LC_ALL": "C"},
        )
        if done.returncode:
            lines = (done.stderr.strip() or "no message").splitlines()
            said = next((line for line in lines if "error" in line), lines[-1])
            compiler = shlex.join(_compiler())
            raise KernelUnavailable(
                f"{compiler} could not compile {source.name}: {said}{_asked_for()}"
            )
        library = cache_folder() / _named(start, beside.read_bytes())
        os.replace(beside, library)
        return library


def _fingerprint(source: Path, command: list[str]) -> str:
    sources = [source, *sorted(source.parent.glob("*.h"))]
    parts = [*(each.read_text() for each in sources), " ".join(command), _version(), _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _version() -> str:
    asked = [*_compiler(), "--version"]
    return subprocess.run(asked, capture_output=True, text=True).stdout


def _processor() -> str:
    """What decides the instructions that -march=native allows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
