"""Names in the world's alphabets reach the report, whatever its fonts have."""

import shutil

import pytest

from stalegrad.report.latex import code, escape, typeset

NAMES = {
    "Cyrillic": "результаты",
    "Chinese": "结果/中文",
    "Japanese": "けっか",
    "Arabic": "نتائج",
    "Hebrew": "תוצאות",
    "Devanagari": "परिणाम",
    "Thai": "ผลลัพธ์",
    "Greek": "αποτελέσματα",
    "Vietnamese": "kết quả",
    "Icelandic": "niðurstöður",
    "emoji": "📈 results",
    "combined": "re\u0301sultats",
    "no letter": "a\u200bb\u202ec",
    "no text": "a\udcffb",
    "what LaTeX takes for its own": r"a_b%c#d&e~f^g\h{i}j$k",
    "control": "a\x07b\x1bc",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_typeset(name, tmp_path):
    if not (shutil.which("latexmk") or shutil.which("tectonic")):
        pytest.skip("needs LaTeX")
    folder = tmp_path / (NAMES["Chinese"].replace("/", "") + NAMES["Cyrillic"])
    folder.mkdir()
    shown = f"{code('/home/' + NAMES[name] + '/results')} {escape(NAMES[name])}"
    (folder / "report.tex").write_text(
        r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{mathptmx}"
        r"\renewcommand{\ttdefault}{lmtt}\usepackage[hidelinks]{hyperref}\begin{document}"
        f"{shown}\\end{{document}}\n",
        encoding="utf-8",
    )
    assert typeset(folder / "report.tex").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("make", [code, escape])
def test_what_the_font_lacks_is_named_by_its_number(make):
    assert "[U+4E2D]" in make("a中b") and "[U+0440]" in make("aрb")
    assert "é" in make("é") and "à" in make("à")
