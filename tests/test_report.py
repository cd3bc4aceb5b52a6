"""The report: its numbers are read, never typed; what is missing is said; LaTeX is content."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, home_of
from matplotlib.figure import Figure

from stalegrad import report
from stalegrad.analysis import style
from stalegrad.analysis.products import maker
from stalegrad.analysis.results import StudyResults
from stalegrad.analysis.tables import Table
from stalegrad.io.errors import ResultError
from stalegrad.io.files import provenance_path
from stalegrad.io.wording import claim_title
from stalegrad.planning.plan import Plan
from stalegrad.report import build_report, write_sources
from stalegrad.report.latex import code, escape
from stalegrad.report.pages import command
from stalegrad.report.values import (
    axis,
    collect_values,
    published_grids,
    shown,
    used_keys,
    values_tex,
)

PAPER, CONFIG = ROOT / "paper", ROOT / "config"
PROSE = sorted([*PAPER.rglob("*.tex"), *ROOT.glob("studies/*/section.tex")])
BIBLIOGRAPHY = (PAPER / "references.bib").read_text("utf-8")

needs_latex = pytest.mark.skipif(
    not (shutil.which("latexmk") or shutil.which("tectonic")), reason="no LaTeX on this machine"
)

MADE_UP_STUDY = """
title: A made-up study of 100 % nothing_at_all
cite: nobody1999
grids:
  main:
    cell:
      problem: {name: lenet5, dataset: mnist}
      rule: {name: sgd}
      cluster: {name: constant_delay}
      batch_size: 64
      epochs: 3
    axes:
      cluster.delay: [0, 4]
      rule.lr: [0.001, 0.01]
figures:
  curve: {caption: 'Accuracy at rates of 10^-3 & more, in %.'}
tables:
  numbers: {caption: 'What came out_of it.'}
"""


# ---- Made-up results -------------------------------------------------------------------------


def plan_of(preset: str, folder: Path = CONFIG) -> Plan:
    return Plan.load(
        {"preset": preset, "studies": ["jain2018"] if folder == CONFIG else None}, folder
    )


def section_of(study: str) -> Path:
    return home_of(study) / "section.tex"


def made_up_plan(tmp_path: Path) -> Plan:
    """A plan of one study that is nothing but a YAML."""
    folder = tmp_path / "config"
    shutil.copytree(CONFIG / "presets", folder / "presets")
    (tmp_path / "studies" / "nobody1999").mkdir(parents=True)
    (tmp_path / "studies" / "nobody1999" / "study.yaml").write_text(MADE_UP_STUDY)
    return plan_of("quick", folder)


def write_runs(plan: Plan, study: str, folder: Path) -> None:
    """Runs that train where the rate times the delay is small, and their histories."""
    runs, histories, noise = [], [], np.random.default_rng(1)
    for grid, cells in plan.grids[study].items():
        for cell in cells:
            columns = cell.columns()
            delay = columns.get("delay", columns.get("workers", 1) - 1)
            trains = columns["lr"] * (1 + delay) < 0.05
            final = noise.uniform(0.97, 0.99) if trains else 0.113
            progress = {"updates": 9, "simulated_seconds": 9.0, "mean_staleness": float(delay)}
            progress |= {"max_staleness": delay, "diverged": not trains}
            scores = {"final_test_accuracy": final, "best_test_accuracy": final}
            runs.append({"grid": grid, "run": cell.hash, **columns, **scores, **progress})
            histories += [
                {"run": cell.hash, "epoch": e, "test_accuracy": final, **progress}
                for e in range(1, cell.epochs + 1)
            ]
    (folder / study).mkdir(parents=True, exist_ok=True)
    pd.DataFrame(runs).to_csv(folder / study / "runs.csv", index=False)
    history = pd.DataFrame(histories).drop_duplicates(["run", "epoch"])
    history.to_csv(folder / study / "history.csv", index=False)


def write_staleness(plan: Plan, study: str, folder: Path) -> None:
    rows = [
        {
            **{"simulation": name, "index": i, "workers": cell.cluster.workers, "replicate": r},
            **{"mean_before": cell.cluster.workers - 1 + 0.001 * r, "deviation": 1.5},
            **{"skewness": 0.01, "normal_distance": 0.02},
        }
        for name, cells in plan.simulations[study].items()
        for i, cell in enumerate(cells)
        for r in range(3)
    ]
    pd.DataFrame(rows).to_csv(folder / study / "staleness.csv", index=False)


def write_provenance(plan: Plan, study: str, folder: Path) -> None:
    record = {"commit": "0123456789abcdef+", "stalegrad": "0.1.0", "python": "3.11.9"}
    record |= {"torch": "2.13.0", "numpy": "2.3.0", "backend": "torch", "cores": 2}
    record |= {"device": "cpu: Some_Processor (R) @ 2 GHz", "wall_seconds": 90.0}
    for bundle in plan.bundles[study].values():
        path = provenance_path(folder / study / "bundles" / f"{bundle.hash}.csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = record | {"runs": len(bundle.cells), "samples": 1000, "bundle": bundle.hash}
        path.write_text(json.dumps(content))


def write_figure(name: str, folder: Path) -> None:
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(style.WIDTH, 1.5))
    figure.subplots().plot([0, 1], [0, 1])
    style.save(figure, folder / "figures" / f"{name}.pdf")


def write_table(name: str, table: Table, folder: Path) -> None:
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    (folder / "tables" / f"{name}.csv").write_text(table.csv())
    (folder / "tables" / f"{name}.tex").write_text(table.latex())


def verdict(study: str, claim: str, verdict: str, **more) -> dict:
    row = {
        "study": study,
        "claim": claim,
        "quote": 'it is < 10^-3, "never" > 5 % of σ',
        "where": "§ 3",
    }
    row |= {"verdict": verdict, "statistic": "share_of cells", "value": 0.875, "low": 0.5}
    row |= {"high": np.nan, "threshold": "≥ 0.9", "reason": "7 of 8 do; τ ± 1 ⊕."}
    row |= {"floor": 0.25, "printed": np.nan, "printed_verdict": "It prints none."}
    return row | {"robustness": "stable"} | more


def write_verdicts(study: str, folder: Path) -> None:
    rows = [
        verdict(study, "accuracy_rises", "reproduced", high=0.99),
        verdict(study, "sgd_drops_sooner", "not reproduced", high=0.99),
        verdict(study, "in_part", "partly", robustness="partly without seed 2", printed=0.75)
        | {"printed_verdict": "not reproduced"},
        verdict(study, "nothing_known", "cannot tell", value=np.nan, low=np.nan, statistic=""),
    ]
    pd.DataFrame(rows).to_csv(folder / "verdicts.csv", index=False)


def write_everything(plan: Plan, folder: Path, study: str = "jain2018") -> None:
    """All results of a study: its real tables of made-up runs, and figures that are only there."""
    write_runs(plan, study, folder)
    write_staleness(plan, study, folder)
    write_provenance(plan, study, folder)
    write_verdicts(study, folder)
    results = StudyResults(home_of(study), plan.settings.preset, folder / study)
    for name, (_, short, product) in plan.tables.items():
        table = maker("tables", home_of(study), short, product.make)(results)
        write_table(name, table, folder)
    for name in plan.figures:
        write_figure(name, folder)


# ---- Text into LaTeX -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("50 % of all_b & c#1", r"50 \% of all\_b \& c\#1"),
        ("a < b > c $x$", r"a \textless{} b \textgreater{} c \$x\$"),
        ("rate 10^-2.5, s^2", "rate $10^{-2.5}$, $s^{2}$"),
        ("σ ± 1 × τ", r"$\sigma$ $\pm$ 1 $\times$ $\tau$"),
        ("n/(K mu), 2 K/tau", r"n/(K $\mu$), 2 K/$\tau$"),
        ("mumble, tau_of_it", r"mumble, tau\_of\_it"),
        ("T_c or s_max, tau_1", r"$T_{c}$ or $s_{\mathrm{max}}$, $\tau_{1}$"),
        ("x_k - x^_k - y", r"$x_{k}$ $-$ $\hat x_{k}$ $-$ y"),
        ("exp(- K)", "exp($-$ K)"),
        ("gamma_next(k,m)^2", r"$\gamma_{\mathrm{next}(k,m)}^{2}$"),
        ("E[ |x^_k|^2 ] (a)^2 >= b", r"E[ \textbar{}$\hat x_{k}$$|^{2}$ ] (a$)^{2}$ $\geq$ b"),
        ("Omega(tau^2) <= sqrt(K)", r"$\Omega$($\tau^{2}$) $\leq$ $\sqrt{K}$"),
        ("1.8e-05, 7.9e+14, 1e-10", r"$1.8\times10^{-5}$, $7.9\times10^{14}$, $10^{-10}$"),
        ("N(1, 0.2^2), 3 a b", "N(1, $0.2^{2}$), 3 a b"),
        ("N - 1 is -1, half-way", "N $-$ 1 is $-$1, half-way"),
        ("'so' it's \"said\"", "`so' it's ``said''"),
        ("a `b_c` and `d'", r"a \texttt{b\_\allowbreak{}c} and `d'"),
        ("Köster  and\nŁódź", "Köster and Łódź"),
        ("a\\b{c}^", r"a\textbackslash{}b\{c\}\textasciicircum{}"),
        ("ﬁne ⊕", "fine [U+2295]"),
    ],
)
def test_text_is_escaped(text, latex):
    assert escape(text) == latex


def test_code_keeps_every_character_and_breaks_at_slashes():
    latex = code("snakemake --config a=b -- results/quick/fig_1.pdf")
    assert "-{}-config" in latex  # no dash is made of two hyphens
    assert r"/\allowbreak{}fig\_\allowbreak{}1" in latex


@pytest.mark.parametrize(
    ("value", "latex"),
    [
        (0.98214, "0.9821"),
        (12345, "12,345"),
        (256.0, "256"),
        (-0.25, "$-$0.25"),
        (1e-5, "$10^{-5}$"),
        (3.1623e-05, r"$3.162\times10^{-5}$"),
        (True, "yes"),
        ("all_b", r"all\_b"),
        (np.nan, None),
        (np.inf, r"$\infty$"),
    ],
)
def test_values_are_shown_as_text_has_them(value, latex):
    assert shown(value) == latex


def test_axes_inclaim_title():
    assert axis([8]) == "8"
    assert axis([4, 0, 1]) == "0, 1 and 4"
    assert axis([10.0**-k for k in range(3, -6, -1)]) == "9 values from 0.001 to 100,000"


# ---- Values ----------------------------------------------------------------------------------


def values_of(plan: Plan, folder: Path) -> dict[str, str]:
    return collect_values(plan, published_grids(plan), folder)


def test_every_entry_of_a_table_has_a_key(tmp_path):
    frame = pd.DataFrame(
        {"workers": [2, 257], "rate": [0.1, 1e-5], "mean": [0.1, -0.25], "note": ["a b", None]}
    )
    write_table("jain2018_fig1", Table(frame), tmp_path)
    values = values_of(plan_of("quick"), tmp_path)
    assert values["jain2018.fig1.257.mean"] == "$-$0.25"
    assert values["jain2018.fig1.257.mean%"] == "$-$25.00"
    assert values["jain2018.fig1.2.note"] == "a b"
    assert "jain2018.fig1.257.note" not in values
    assert values["jain2018.fig1.min.mean"] == "$-$0.25"
    assert values["jain2018.fig1.largest.mean"] == "0.25"
    assert values["jain2018.fig1.sum.workers"] == "259"


def test_rows_go_by_as_many_columns_as_tell_them_apart(tmp_path):
    frame = pd.DataFrame({"delay": [8, 8], "lr": [0.01, 0.01], "start": ["a b", "c"], "x": [1, 2]})
    write_table("jain2018_warmup", Table(frame), tmp_path)
    values = values_of(plan_of("quick"), tmp_path)
    assert values["jain2018.warmup.8.0.01.a-b.x"] == "1"
    assert values["jain2018.warmup.8.0.01.c.x"] == "2"


def test_configuration_runs_and_provenance_are_counted(tmp_path):
    plan = made_up_plan(tmp_path)
    write_runs(plan, "nobody1999", tmp_path)
    write_provenance(plan, "nobody1999", tmp_path)
    # What an earlier configuration left behind does not count.
    (bundle,) = plan.bundles["nobody1999"].values()
    left = provenance_path(tmp_path / "nobody1999" / "bundles" / "0000000000000000.csv")
    left.write_text(json.dumps({"bundle": bundle.hash, "wall_seconds": 1e9, "samples": 10**9}))
    values = values_of(plan, tmp_path)
    assert values["nobody1999.main.cells"] == "4"
    assert values["nobody1999.main.delay"] == "0 and 4"
    assert values["nobody1999.published.main.runs"] == "12"
    assert values["nobody1999.measured"] == "4"
    assert values["nobody1999.diverged"] == "1"  # 0.01 x 5 is not below 0.05
    assert values["provenance.wall"] == "90 s"
    assert values["nobody1999.provenance.samples"] == "1,000"
    assert values["provenance.commit"] == r"\texttt{0123456789+}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("momentum_05_like_none", "Momentum 0.5 like none"),
        ("momentum_099_diverges", "Momentum 0.99 diverges"),
        ("sgd_fails_past_delay_32", "SGD fails past delay 32"),
        ("figure_2_accuracies", "Figure 2 accuracies"),
        ("rate_non_convex", "Rate non-convex"),
        ("faster_on_lenet", "Faster on LeNet-5"),
    ],
)
def test_claims_are_named_as_people_write(name, words):
    assert claim_title(name) == words


def test_verdicts_are_counted(tmp_path):
    write_verdicts("jain2018", tmp_path)
    values = values_of(plan_of("quick"), tmp_path)
    assert values["verdicts.claims"] == "4"
    assert values["verdicts.not-reproduced"] == "1"
    assert values["jain2018.verdicts.partly"] == "1"
    assert values["verdict.jain2018.accuracy_rises.value%"] == "87.50"


def test_a_study_has_a_table_of_its_verdicts(tmp_path):
    write_verdicts("jain2018", tmp_path)
    verdicts = (write_sources(plan_of("quick"), tmp_path, PAPER) / "verdicts.tex").read_text()
    table = verdicts.partition(r"\verdicttable{")[2].partition(r"\definematrix")[0]
    assert table.count(r"\verdict{") == 4
    assert r"{share\_of cells: 0.875 [0.5, 0.99]}{$\geq$ 0.9}" in table
    assert table.count("{--}") == 1  # what has no value
    assert "nan" not in verdicts


def test_the_summary_has_floors_and_marks_what_is_fragile(tmp_path):
    write_verdicts("jain2018", tmp_path)
    verdicts = (write_sources(plan_of("quick"), tmp_path, PAPER) / "verdicts.tex").read_text()
    matrix = verdicts.partition(r"\definematrix{")[2].partition(r"\defineprinted")[0]
    assert matrix.count(" & 0.25 & ") == 4
    assert matrix.count(r"\fragilemark") == 1
    assert r"{In part} &  & \verdictmark{partly}\fragilemark &  &  & " in matrix


def test_printed_numbers_are_judged_in_a_table(tmp_path):
    write_verdicts("jain2018", tmp_path)
    verdicts = (write_sources(plan_of("quick"), tmp_path, PAPER) / "verdicts.tex").read_text()
    printed = verdicts.partition(r"\defineprinted{")[2]
    assert printed.count(r"\claimlink") == 1
    assert (
        r"{In part} & \verdictmark{notreproduced} & 0.75 & \verdictmark{partly} & 0.875" in printed
    )


def test_changed_criteria_are_told(tmp_path):
    """With the verdict then and now; what was left as it was, or is new, is not."""
    plan = made_up_plan(tmp_path)
    study, home = next(iter(plan.homes.items()))
    rows = [
        ("in_part", "5 % in 3 of 4", "reproduced", "3 of 4", "It asked for too much."),
        ("left_alone", "any", "partly", "unchanged", "The audit does not touch it."),
        ("new_one", "none", "", "half of them", "Nothing answered the sentence."),
    ]
    columns = ("claim", "old_criterion", "old_verdict", "new_criterion", "reason")
    pd.DataFrame(rows, columns=columns).to_csv(home / "criteria.csv", index=False)
    write_verdicts(study, tmp_path)
    text = (write_sources(plan, tmp_path, PAPER) / "criteria.tex").read_text()
    marks = r"\criterion{\verdictmark{reproduced}}{\verdictmark{partly}}"
    assert marks + r"{In part}{5 \% in 3 of 4}{It asked for too much.}" in text
    assert "Left alone" not in text and "New one" not in text
    (home / "criteria.csv").write_text("claim,reason\none,two,three\n")
    with pytest.raises(ResultError, match=r"criteria\.csv is not a readable CSV"):
        write_sources(plan, tmp_path, PAPER)


def test_only_named_values_are_written_and_missing_ones_are_noted():
    named = used_keys([r"is \val{a.b} and \percent{c} and \val{gone}"])
    text = values_tex({"a.b": "1", "c": "0.5", "c%": "50.00", "other": "2"}, named)
    assert r"\setvalue{a.b}{1}" in text
    assert r"\setpercent{c}{50.00}" in text
    assert "% not measured: gone" in text
    assert "other" not in text


def test_prose_of_jain2018_finds_every_number(tmp_path):
    plan = plan_of("paper")
    write_everything(plan, tmp_path)
    values = values_of(plan, tmp_path)
    general = {"method", "deviations", "threats", "provenance"}
    sections = [*(PAPER / "sections" / f"{name}.tex" for name in general), section_of("jain2018")]
    named = used_keys(path.read_text("utf-8") for path in [PAPER / "report.tex", *sections])
    # Training is from the archive where that is complete, and then no bundle is left to be made.
    assert [key for key in named if key not in values] == []


# ---- No number is typed by hand --------------------------------------------------------------

# Names that hold digits; a year; a place in a paper.
ALLOWED = [
    r"\\study(?:figures|tables)\{\w+\}\{\w+\}",
    r"LeNet-5",
    r"CS-439",
    r"SHA-256",
    r"\b(?:19|20)\d\d\b",
    r"(?:Figure|Table|Section|Theorem|Lemma|Algorithm|Equation)s?~[\dIVX]+",
]
# Macros whose arguments are not prose: keys, files, labels; a published number with its citation,
# and a paper's own words with theirs.
SILENT = (
    r"\\(?:val|percent|label|ref|input|studyfacts|studyfigure|studytable|figref|tabref"
    r"|tablefile|studyverdicts|bibliography|cite[a-z]*|hypersetup|setcounter|usepackage|textcolor"
    r"|eqref|documentclass)\*?(?:\[[^\]]*\])?\{[^{}]*\}(?:\{\d\})?"
)
CITED = re.compile(r"\\(?:published|quoted)\{(?:[^{}]|\{[^{}]*\})*\}\{([\w,]+)\}")
# Mathematics of definitions: small whole numbers, never a decimal.
MATHEMATICS = re.compile(r"\$[^$]*\$")


def typed_numbers(text: str) -> list[str]:
    """Words of a prose source with a digit that nothing allows."""
    text = re.sub(r"(?<!\\)%.*", "", text)
    for pattern in (CITED, SILENT, *ALLOWED):
        text = re.sub(pattern, "", text)
    text = re.sub(r"\\documentclass\[.*", "", text)
    text = MATHEMATICS.sub(lambda m: re.sub(r"(?<![\d.])[0-2](?![\d.])", "", m[0]), text)
    return re.findall(r"\S*\d\S*", text)


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_no_number_is_typed_by_hand(path):
    assert typed_numbers(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "accuracy was 0.98",
        "$0.98$",
        r"98\,\%",
        "12 runs",
        r"\emph{3} runs",
        "$N = 257$",
        "$10^{-3}$",
    ],
)
def test_a_typed_number_is_found(text):
    assert typed_numbers(text)


@pytest.mark.parametrize(
    "text",
    [
        r"\val{a.1.b} and \percent{c.2.d}, Figure~3 of \citet{jain2018} in 2018",
        r"\published{98.21}{jain2018}, \published{$10^{-3}$}{jain2018}, \quoted{32 of}{jain2018}",
        r"$N-1$ and $[0,1]$ of LeNet-5 % with 7 in a comment",
    ],
)
def test_what_is_read_or_cited_is_not_found(text):
    assert typed_numbers(text) == []


def test_every_citation_is_in_the_bibliography():
    text = "\n".join(path.read_text("utf-8") for path in PROSE)
    cited = re.findall(r"\\cite[a-z]*(?:\[[^\]]*\])*\{([^{}]*)\}", text) + CITED.findall(text)
    keys = {key.strip() for group in cited for key in group.split(",")}
    assert keys
    assert keys <= set(re.findall(r"@\w+\{(\w+),", BIBLIOGRAPHY))


def test_the_four_papers_are_in_the_bibliography():
    known = set(re.findall(r"@\w+\{(\w+),", BIBLIOGRAPHY))
    assert {"jain2018", "allawati2020", "lamour2023", "mishchenko2022"} <= known


@pytest.mark.parametrize(
    "study", sorted(p.parent.name for p in (ROOT / "studies").glob("*/study.yaml"))
)
def test_sections_name_only_figures_and_tables_that_are_configured(study):
    section = section_of(study)
    if not section.exists():
        pytest.skip(f"{study} has no hand-written section")
    plan = Plan.load({"studies": [study]}, CONFIG)
    text = section.read_text("utf-8")
    pairs = re.findall(r"\\studyfigures\{(\w+)\}\{(\w+)\}", text)
    beside = re.findall(r"\\studytables\{(\w+)\}\{(\w+)\}", text)
    figures = re.findall(r"\\(?:studyfigure|figref)\{(\w+)\}", text)
    assert {*figures, *(name for pair in pairs for name in pair)} <= set(plan.figures)
    tables = re.findall(r"\\(?:studytable|tabref|tablefile)\{(\w+)\}", text)
    assert {*tables, *(name for pair in beside for name in pair)} <= set(plan.tables)


def plan_with_section(text: str, folder: Path) -> Plan:
    """jain2018 at `quick`, with another section."""
    home = folder / "homes" / "jain2018"
    home.mkdir(parents=True)
    shutil.copy(home_of("jain2018") / "study.yaml", home)
    (home / "section.tex").write_text(text)
    return replace(plan_of("quick"), homes={"jain2018": home})


# ---- Sources ---------------------------------------------------------------------------------


def test_a_study_with_no_section_gets_one_with_all_there_is(tmp_path):
    plan = made_up_plan(tmp_path)
    write_figure("nobody1999_curve", tmp_path)
    folder = write_sources(plan, tmp_path, PAPER)
    studies = (folder / "studies.tex").read_text()
    assert r"\section{A made-up study of 100 \% nothing\_at\_all}" in studies
    assert r"\studyfigure{nobody1999_curve}" in studies
    assert r"\studytable{nobody1999_numbers}" in studies
    figures = (folder / "figures.tex").read_text()
    assert r"\graphic{../figures/nobody1999_curve.pdf}" in figures
    assert r"\definetable{nobody1999_numbers}{\notmade{" in figures
    assert r"rates of $10^{-3}$ \& more, in \%." in figures


def test_products_that_a_section_forgets_come_after_it(tmp_path):
    text = section_of("jain2018").read_text()
    plan = plan_with_section(text.replace("\\studyfigure{jain2018_front}\n", ""), tmp_path)
    studies = (write_sources(plan, tmp_path, PAPER) / "studies.tex").read_text()
    assert "Further figures" in studies
    assert re.findall(r"\\study\w+\{\w+\}", studies) == [r"\studyfigure{jain2018_front}"]


def test_a_table_that_is_named_as_a_file_and_a_pair_of_figures_are_not_forgotten(tmp_path):
    names = ("jain2018_front", "jain2018_fig3")
    text = section_of("jain2018").read_text().replace(r"\studytable{jain2018_best_adam}", "")
    for name in names:
        text = text.replace(rf"\studyfigure{{{name}}}", "")
    both = r"\studyfigures{jain2018_front}{jain2018_fig3} in \tablefile{jain2018_best_adam}"
    plan = plan_with_section(text + both, tmp_path)
    studies = (write_sources(plan, tmp_path, PAPER) / "studies.tex").read_text()
    assert "Further figures" not in studies
    figures = (tmp_path / "report" / "figures.tex").read_text().replace(r"\allowbreak{}", "")
    assert (
        r"\definetablefile{jain2018_best_adam}{\texttt{tables/jain2018\_best\_adam.csv}}" in figures
    )


def test_every_figure_and_table_has_its_command(tmp_path):
    plan = plan_of("quick")
    commands = (write_sources(plan, tmp_path, PAPER) / "commands.tex").read_text()
    plain = commands.replace(r"\allowbreak{}", "").replace(r"\_", "_").replace("-{}-", "--")
    for kind, suffix, names in (("figures", "pdf", plan.figures), ("tables", "csv", plan.tables)):
        target = f"results/quick/{kind}/STUDY_NAME.{suffix}"
        _, _, below = plain.partition(f"snakemake --cores all --config preset=quick -- {target}")
        below = below.partition(r"\commandline")[0]
        listed = [
            f"{study}_{name}"
            for study, part in re.findall(r"\\commandnames\{\\texttt\{(\w+)\}\}(.*)", below)
            for name in re.findall(r"\\texttt\{(\w+)\}", part)
        ]
        assert sorted(listed) == sorted(names)


def test_commands_of_an_archived_report_train_nothing(tmp_path):
    plan = Plan.load({"preset": "paper", "measured_only": True}, CONFIG)
    assert "preset=paper measured_only=true -- results/paper/report.pdf" in command(
        plan, "report.pdf"
    )


def test_a_long_table_is_named_instead_of_printed(tmp_path):
    write_table("jain2018_fig2", Table(pd.DataFrame({"x": range(300)})), tmp_path)
    figures = (write_sources(plan_of("paper"), tmp_path, PAPER) / "figures.tex").read_text()
    assert r"\toolong{300}" in figures


@pytest.mark.parametrize(
    ("preset", "says"), [("smoke", "mean nothing"), ("quick", "thinned"), ("paper", None)]
)
def test_the_first_page_says_how_much_was_run(tmp_path, preset, says):
    scale = (write_sources(plan_of(preset), tmp_path, PAPER) / "scale.tex").read_text()
    assert (says in scale) if says else (r"\scalenote" not in scale)


def test_prose_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ResultError, match="report.tex is not there"):
        write_sources(plan_of("quick"), tmp_path, tmp_path / "nowhere")


# ---- Typesetting -----------------------------------------------------------------------------


def text_of(pdf: Path) -> str:
    """The words of a PDF in one line; skips where pdftotext is missing."""
    if not shutil.which("pdftotext"):
        pytest.skip("no pdftotext on this machine")
    done = subprocess.run(["pdftotext", str(pdf), "-"], capture_output=True, check=True)
    return " ".join(done.stdout.decode().split())


def assert_no_complaints(pdf: Path) -> None:
    log = (pdf.parent / "report" / "report.log").read_text("utf-8", "replace")
    too_wide = [float(w) for w in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide\)", log)]
    assert [width for width in too_wide if width > 5] == []
    assert re.findall(r".*(?:undefined|multiply defined|has been referenced but).*", log) == []


@needs_latex
@pytest.mark.parametrize("preset", ["paper"])
def test_the_whole_report(tmp_path, preset):
    plan = plan_of(preset)
    write_everything(plan, tmp_path)
    pdf = build_report(plan, tmp_path, PAPER)
    assert pdf == tmp_path / "report.pdf"
    assert_no_complaints(pdf)
    text = text_of(pdf)
    assert "??" not in text and "Not made yet" not in text and "[U+00A7]" in text
    assert "4 claims are judged: 1 reproduced, 1 in part, 1 not" in text
    assert "Ajay Jain, Anand Srinivasan, and Parnian Barekatain" in text
    assert f"snakemake --cores all --config preset={preset} -- results/{preset}/report.pdf" in text


@needs_latex
def test_a_report_of_nothing_says_what_is_missing(tmp_path):
    pdf = build_report(plan_of("quick"), tmp_path, PAPER)
    assert_no_complaints(pdf)
    text = text_of(pdf)
    assert "??" not in text
    assert "(not measured)" in text
    assert "No verdicts yet" in text
    section = section_of("jain2018").read_text("utf-8")
    printed = re.findall(r"\\studytable\{\w+\}", section)
    assert text.count("Not made yet") == len(plan_of("quick").figures) + len(printed)


@needs_latex
def test_a_study_of_a_yaml_alone_with_part_of_its_results(tmp_path):
    plan = made_up_plan(tmp_path)
    write_runs(plan, "nobody1999", tmp_path)
    write_figure("nobody1999_curve", tmp_path)
    wide = pd.DataFrame({f"a long column name {i}": [f"{i} words in a row"] for i in range(12)})
    write_table("nobody1999_numbers", Table(wide), tmp_path)
    write_verdicts("nobody1999", tmp_path)
    pdf = build_report(plan, tmp_path, PAPER)
    assert_no_complaints(pdf)
    text = text_of(pdf)
    assert "A made-up study of 100 % nothing_at_all" in text
    assert "Not made yet" not in text and "??" not in text
    assert "SGD drops sooner. ‘it is < 10" in text


@needs_latex
def test_the_same_results_give_the_same_bytes(tmp_path):
    plan = made_up_plan(tmp_path)
    pdfs = []
    for name in ("one", "another"):
        write_figure("nobody1999_curve", tmp_path / name)
        pdfs.append(build_report(plan, tmp_path / name, PAPER).read_bytes())
    assert pdfs[0] == pdfs[1]


@needs_latex
def test_an_error_of_latex_is_shown_and_the_old_report_stays(tmp_path):
    paper = tmp_path / "paper"
    shutil.copytree(PAPER, paper)
    with (paper / "sections" / "method.tex").open("a") as file:
        file.write("\n\\nosuchmacro\n")
    (tmp_path / "report.pdf").write_bytes(b"old")
    with pytest.raises(
        ResultError, match=r"(?s)Undefined control sequence.*nosuchmacro.*the whole log|log is"
    ):
        build_report(plan_of("quick"), tmp_path, paper)
    assert (tmp_path / "report.pdf").read_bytes() == b"old"
    assert not list(tmp_path.glob(".report.pdf*"))


def test_without_latex_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(report.latex.shutil, "which", lambda name: None)
    with pytest.raises(ResultError, match="system_packages.sh.*envs/report.yaml"):
        build_report(plan_of("quick"), tmp_path, PAPER)
