"""Plain text into LaTeX, and LaTeX into a PDF."""

import os
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from stalegrad.io.errors import ResultError

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
# What is set as mathematics: a number with its exponent (1.2e-05); a symbol, that is a Greek letter
# by name, or a letter or number with an index or power (T_c, x^_k for x-hat, s_max, 10^-3); a power
# of what is in bars or brackets; a root; at most and at least.
_MATHEMATICS = (
    r"(?<![\w.])(?P<mantissa>\d+(?:\.\d+)?)e(?P<exponent>[+-]\d+)(?!\w)"
    rf"|(?<![\w.\\])(?:(?P<greek>{'|'.join(_GREEK.values())})|(?P<base>\d+(?:\.\d+)?|[A-Za-z]|max))"
    r"(?P<hat>\^(?=_))?(?:_(?P<index>[A-Za-z]+(?:\([^()]*\))?|\d+))?"
    r"(?:\^(?P<power>-?\d+(?:\.\d+)?))?(?!\w)"
    r"|(?P<closing>[|)\]])\^(?P<raised>\d+)|sqrt\((?P<root>\w+)\)|(?P<relation>[<>]=)"
)
# Mathematics, a `name`, an opening quotation mark, or any other single character.
_TOKEN = re.compile(
    rf"{_MATHEMATICS}|`(?P<name>[^`']+)`|(?:(?<=[\s(\[])|^)(?P<quote>['\"])|(?P<character>.)",
    re.DOTALL,
)
# A sign before a number, and a difference (N - 1).
_MINUS = re.compile(r"(?<![\w.^-])-(?=\d)|(?<=[\w)\]] )-(?= (?:\d|\w(?:\b|[_^])))|(?<=\()-(?= )")


def escape(text: str) -> str:
    """`text` as LaTeX that shows it: specials escaped, white space run together.

    Symbols are set as mathematics, be they Greek (`sigma`) or have an index or a power (`T_c`,
    `10^-3`); minus signs are set as such, straight quotation marks turned, and what stands between
    two backticks is a name, in the typewriter font.
    Characters that the report's fonts lack are replaced by their nearest ASCII, or by their number.
    """
    text = _MINUS.sub("−", " ".join(text.split()))
    return _TOKEN.sub(_token, text)


def _token(match: re.Match) -> str:
    if mathematics := _mathematics(match):
        return f"${mathematics}$"
    if match["name"]:
        return code(match["name"])
    if match["quote"]:
        return "`" if match["quote"] == "'" else "``"
    if match[0] == '"':
        return "''"
    # A letter or number with neither index nor power is text like any other.
    return "".join(_SPECIAL.get(character) or _in_font(character) for character in match[0])


def _mathematics(match: re.Match) -> str | None:
    if match["mantissa"]:
        mantissa = "" if match["mantissa"] == "1" else rf"{match['mantissa']}\times"
        return rf"{mantissa}10^{{{int(match['exponent'])}}}"
    if match["relation"]:
        return {"<=": r"\leq", ">=": r"\geq"}[match["relation"]]
    if match["root"]:
        return rf"\sqrt{{{match['root']}}}"
    if match["closing"]:
        return rf"{match['closing']}^{{{match['raised']}}}"
    if not (match["greek"] or match["index"] or match["power"]):
        return None
    symbol = rf"\{match['greek']}" if match["greek"] else match["base"]
    symbol = {"max": r"\max"}.get(symbol, symbol)
    hat = rf"\hat {symbol}" if match["hat"] else symbol
    index = f"_{{{_index(match['index'])}}}" if match["index"] else ""
    return hat + index + (f"^{{{match['power']}}}" if match["power"] else "")


def _index(index: str) -> str:
    """Letters are symbols, words are not: `m`, `max`, `next(k,m)`."""
    return re.sub(r"[A-Za-z]{2,}", lambda word: rf"\mathrm{{{word[0]}}}", index)


def _in_font(character: str) -> str:
    # ASCII, and the letters of Latin-1 and Latin Extended-A, are in every T1 font.
    if " " <= character <= "~" or "\u00c0" <= character <= "\u017f":
        return character
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    plain = "".join(filter(str.isprintable, plain)).strip()
    if plain:
        return "".join(_SPECIAL.get(c, c) for c in plain)
    return "" if unicodedata.combining(character) else f"[U+{ord(character):04X}]"


def code(text: str) -> str:
    """`text` in the typewriter font, to be broken after '/', '_' and spaces alone; what that font
    lacks is replaced as `escape` does."""
    parts = re.split(r"(?<=[/_ ])", text)
    pieces = ("".join(_SPECIAL.get(c) or _in_font(c) for c in part) for part in parts)
    # Two hyphens in a row are no dash.
    return r"\texttt{" + r"\allowbreak{}".join(pieces).replace("--", "-{}-") + "}"


_PASSES = 5  # more of them only where a page number has no fixed point


def typeset(source: Path) -> Path:
    """Typeset `source` in its own folder. Returns the path of the PDF, which lies beside it.

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
