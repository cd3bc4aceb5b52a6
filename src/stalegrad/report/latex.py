"""Plain text into LaTeX, and LaTeX into a PDF."""

import os
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from stalegrad.errors import ResultError

_GREEK = dict(
    zip(
        "αβγδεζηθκλμνξπρστφχψωΓΔΘΛΣΦΨΩ",
        "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi "
        "chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega".split(),
        strict=True,
    )
)
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "÷": r"$\div$",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "≠": r"$\neq$",
    "∞": r"$\infty$",
    "∇": r"$\nabla$",
    "√": r"$\surd$",
    "→": r"$\to$",
    "∈": r"$\in$",
    "²": r"\textsuperscript{2}",
    "³": r"\textsuperscript{3}",
    "°": r"\textdegree{}",
    "µ": r"$\mu$",
    "–": "--",
    "—": "---",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\dots{}",
    "\u00a0": "~",
    "\u2009": r"\,",
    **{letter: rf"$\{name}$" for letter, name in _GREEK.items()},
}
# A power (10^-2.5, s^2), a `name`, an opening quotation mark, or any other single character.
_TOKEN = re.compile(
    r"(?<![\w.])(?P<base>\d+|[A-Za-z])\^(?P<power>-?\d+(?:\.\d+)?)|`(?P<name>[^`']+)`"
    r"|(?:(?<=[\s(\[])|^)(?P<quote>['\"])|(?P<character>.)",
    re.DOTALL,
)
# A sign before a number, and a difference (N - 1).
_MINUS = re.compile(r"(?<![\w.^-])-(?=\d)|(?<=\w )-(?= (?:\d|\w\b))")


def escape(text: str) -> str:
    """`text` as LaTeX that shows it: specials escaped, white space run together.

    Powers such as 10^-3 are raised, minus signs set as such, straight quotation marks turned, and
    what stands between two backticks is a name, in the typewriter font.
    Characters that the report's fonts lack are replaced by their nearest ASCII, or by their number.
    """
    text = _MINUS.sub("−", " ".join(text.split()))
    return _TOKEN.sub(_token, text)


def _token(match: re.Match) -> str:
    if match["base"]:
        return rf"${match['base']}^{{{match['power']}}}$"
    if match["name"]:
        return code(match["name"])
    if match["quote"]:
        return "`" if match["quote"] == "'" else "``"
    character = match["character"]
    if character == '"':
        return "''"
    return _SPECIAL.get(character) or _in_font(character)


def _in_font(character: str) -> str:
    # ASCII, and the letters of Latin-1 and Latin Extended-A, are in every T1 font.
    if " " <= character <= "~" or "\u00c0" <= character <= "\u017f":
        return character
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode().strip()
    if plain:
        return "".join(_SPECIAL.get(c, c) for c in plain)
    return "" if unicodedata.combining(character) else f"[U+{ord(character):04X}]"


def code(text: str) -> str:
    """`text` in the typewriter font, to be broken after '/', '_' and spaces alone."""
    pieces = ("".join(_SPECIAL.get(c, c) for c in part) for part in re.split(r"(?<=[/_ ])", text))
    # Two hyphens in a row are no dash.
    return r"\texttt{" + r"\allowbreak{}".join(pieces).replace("--", "-{}-") + "}"


_PASSES = 5  # more of them only where a page number has no fixed point


def typeset(source: Path) -> Path:
    """Typeset `source` in its own folder; the PDF beside it.

    By latexmk, or tectonic where there is no latexmk. Raises ResultError with the first errors of
    LaTeX and the place of the log.
    """
    _run(source)
    # latexmk takes a file of the same size and second for the same file, and so leaves page numbers
    # of the pass before in the contents: a pass more, until what passes hand on stays as it is.
    for _ in range(_PASSES):
        before = _handed_on(source)
        if not before or before == _handed_on(_run(source, "-g")):
            break
    return source.with_suffix(".pdf")


def _handed_on(source: Path) -> dict[str, bytes]:
    """The files that one pass of LaTeX writes for the next; tectonic leaves none."""
    found = (source.with_suffix(suffix) for suffix in (".aux", ".toc", ".out"))
    return {path.suffix: path.read_bytes() for path in found if path.exists()}


def _run(source: Path, *options: str) -> Path:
    log, pdf = source.with_suffix(".log"), source.with_suffix(".pdf")
    done = subprocess.run(
        _command(source.name, *options),
        cwd=source.parent,
        env=_environment(os.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if done.returncode or not pdf.exists():
        output = (done.stdout + done.stderr).decode("utf-8", "replace")
        text = log.read_text("utf-8", "replace") if log.exists() else output
        raise ResultError(
            f"LaTeX could not typeset {source}:\n{_first_errors(text) or _tail(output)}\n"
            f"The whole log is {log}."
        )
    return source


def _command(name: str, *more: str) -> list[str]:
    if shutil.which("latexmk"):
        # Without the user's own settings, which could put the PDF elsewhere.
        options = [
            "-norc",
            "-pdf",
            "-interaction=nonstopmode",
            "-halt-on-error",
            "-file-line-error",
            *more,
        ]
        return ["latexmk", *options, name]
    if shutil.which("tectonic"):
        return ["tectonic", "-Z", "deterministic-mode", "--keep-logs", name]
    raise ResultError(
        "The report needs LaTeX, and neither latexmk nor tectonic is there. On Debian and Ubuntu, "
        "`tools/system_packages.sh` names the packages; on conda, envs/report.yaml has tectonic."
    )


def _environment(base: Mapping[str, str]) -> dict[str, str]:
    # One fixed date, unless the user has set one: the same sources give the same bytes. Lines of
    # the log are not to be broken, so that errors are found in it.
    fixed = {"SOURCE_DATE_EPOCH": base.get("SOURCE_DATE_EPOCH", "0"), "FORCE_SOURCE_DATE": "1"}
    return dict(base) | fixed | {"max_print_line": "1000"}


def _first_errors(log: str, most: int = 3) -> str:
    """The first lines of a log that are errors (`! ...` or `file:line: ...`), with what follows."""
    lines = log.splitlines()
    error = re.compile(r"!|\S+\.(tex|sty):\d+: |error: ")
    found = [i for i, line in enumerate(lines) if error.match(line)][:most]
    return "\n".join(f"  {line}" for i in found for line in lines[i : i + 3] if line.strip())


def _tail(output: str) -> str:
    return "\n".join(f"  {line}" for line in output.splitlines()[-5:])
