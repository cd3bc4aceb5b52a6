"""The page: opened in a browser without network, filtered, sorted, pointed at; what is not there is
said."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, Page, browser
from helpers import ROOT, write_check
from packages import need
from PIL import Image

from stalegrad.analysis.claims import claims_of, judge
from stalegrad.analysis.results import StudyResults
from stalegrad.io.errors import ConfigError, ResultError
from stalegrad.planning.config import load_study
from stalegrad.planning.plan import Plan
from stalegrad.planning.studies import find_studies
from stalegrad.report.page import _number, build_page, charts

EVIL = '</script><script>window.evil = 1</script> & "quoted" <b>bold</b>'
STUDY = """
title: A made-up study of <b>nothing</b> & more
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
  map: {caption: 'Accuracy of <b>all</b> cells. More is said here.'}
  lines: {caption: 'One line a run.'}
  plain: {caption: 'A picture alone.'}
tables:
  cells: {caption: 'Every cell.'}
  kinds: {caption: 'Kinds.'}
heat_maps:
  map: {table: cells, x: lr, y: delay}
curves:
  lines: {grids: [main], y: test_accuracy, panels: [delay], colour: lr}
"""
BARE = """
title: A study of claims alone
cite: nobody1998
grids:
  main:
    cell:
      problem: {name: lenet5, dataset: mnist}
      rule: {name: sgd, lr: 0.01}
      cluster: {name: constant_delay, delay: 1}
      batch_size: 64
      epochs: 1
"""


# ---- Made-up results -------------------------------------------------------------------------


def plan_in(folder: Path, preset: str = "quick", **studies: str) -> Plan:
    """A plan of studies that are nothing but a YAML each."""
    shutil.copytree(ROOT / "config" / "presets", folder / "config" / "presets")
    for name, content in studies.items():
        (folder / "studies" / name).mkdir(parents=True)
        (folder / "studies" / name / "study.yaml").write_text(content)
    return Plan.load({"preset": preset, "check_minutes": 1}, folder / "config")


def verdict(study: str, claim: str, verdict: str, **more) -> dict:
    row = {"study": study, "claim": claim, "quote": f"it says {claim}", "where": "section 3"}
    row |= {"verdict": verdict, "statistic": "share of cells", "value": 0.5, "threshold": "0.9"}
    row |= {"low": np.nan, "high": np.nan, "reason": "So it is.", "paired": ""}
    return row | {"grids": "", "files": "", "shows": ""} | more


def write_results(plan: Plan, folder: Path, **columns: list) -> None:
    """Runs, tables, a figure, verdicts (with further `columns`) and a notebook."""
    runs, history = [], []
    for cell in plan.grids["tried"]["main"]:
        run = {"grid": "main", "run": cell.hash, **cell.columns(), "diverged": cell.seed == 2}
        runs.append(run)
        for epoch in range(1, 4):
            reached = 0.5 + 0.1 * epoch - 0.01 * run["delay"]
            history.append({"run": cell.hash, "epoch": epoch, "test_accuracy": reached})
    for name in ("tried", "tables", "figures", "notebooks"):
        (folder / name).mkdir(parents=True)
    pd.DataFrame(runs).to_csv(folder / "tried" / "runs.csv", index=False)
    pd.DataFrame(history).to_csv(folder / "tried" / "history.csv", index=False)
    cells = pd.DataFrame(
        {
            "delay": [0, 0, 4, 4],
            "lr": [0.001, 0.01, 0.001, 0.01],
            "mean": [0.91, 0.92, 0.93, 0.94],
            "count": 3,
            "published": [0.81, 0.82, 0.83, np.nan],
        }
    )
    cells.to_csv(folder / "tables" / "tried_cells.csv", index=False)
    kinds = pd.DataFrame({"kind": ["a", EVIL], "mean": [1.5, 2.5], "published": [1.25, 2.25]})
    kinds.to_csv(folder / "tables" / "tried_kinds.csv", index=False)
    Image.new("RGB", (1500, 300), "white").save(folder / "figures" / "tried_map.png")
    (folder / "notebooks" / "tried.html").write_text("<title>notebook</title>")
    verdicts = [
        verdict(
            "tried",
            "momentum_099_diverges",
            "reproduced",
            value=0.75,
            low=0.5,
            high=0.9,
            paired="Paired over 3 seeds.",
        ),
        verdict("tried", "evil", "partly", quote=EVIL, reason=EVIL, value=12.0),
        verdict("tried", "seen", "reproduced", value=-3.0, grids="main", shows="map lines kinds"),
        verdict("bare", "unknown", "cannot tell", value=np.nan, statistic="", threshold=""),
        verdict("bare", "plain", "not reproduced", value=0.1, files="landscapes/x.npz"),
    ]
    pd.DataFrame(verdicts).assign(**columns).to_csv(folder / "verdicts.csv", index=False)


FLIPS = "partly without seed 2"
ROBUSTNESS = ["stable", FLIPS, "stable", "not tried: results are missing", FLIPS]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The page of two studies, of which one has neither figures nor runs."""
    folder = tmp_path_factory.mktemp("site")
    plan = plan_in(folder, tried=STUDY, bare=BARE)
    write_results(plan, folder / "quick", robustness=ROBUSTNESS, floor=0.125, null="no effect")
    return build_page(plan, folder / "quick")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Page]:
    if not any(map(shutil.which, CHROMIUM)):
        need(CHROMIUM[:1], "chromium")
    with browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(chromium, site) -> Page:
    """The page, just opened."""
    chromium.problems.clear(), chromium.asked.clear()
    chromium.open(site)
    chromium.resize(1400, 1000)
    return chromium


def rows(page: Page) -> list[str]:
    """The claims that the table shows, in its order."""
    return page.run("[...body.rows].filter(r => !r.hidden).map(r => r.cells[0].textContent)")


def choose(page: Page, name: str, value: str) -> None:
    """Set one of the filters, as a user would."""
    page.run(
        f"filters.elements.{name}.value = {value!r};"
        "filters.dispatchEvent(new Event('input'))"
    )  # fmt: skip


def open_all(page: Page) -> None:
    """Open all that can be opened, and draw all charts."""
    page.run("document.querySelectorAll('details').forEach(each => { each.open = true })")
    page.until("document.querySelectorAll('.claim .chart').length === 3")
    page.run("Promise.all([...document.querySelectorAll('.chart')].map(drawChart))")


# ---- In the browser --------------------------------------------------------------------------


def test_all_of_it_opens_without_network_and_complaint(page, site):
    open_all(page)
    assert page.run("document.querySelectorAll('.chart svg').length") == 10
    assert page.problems == []
    assert {address.split(":")[0] for address in page.asked} <= {"file", "data"}
    assert [a for a in page.asked if a.startswith("file")] == [site.as_uri()[:80]]


def test_nothing_is_fetched_even_when_asked_for(page):
    page.run("fetch('https://example.org').catch(() => 0)")
    page.run("new Promise(r => { const i = new Image(); i.onerror = r; i.src = 'nothing.png' })")
    for refused in ("https://example.org/", "nothing.png"):
        assert [said for said in page.problems if refused in said and "Security Policy" in said]


def test_filters_narrow_the_table(page):
    assert len(rows(page)) == 5
    assert page.run("document.getElementById('shown').textContent") == "5 of 5 claims"
    choose(page, "study", "bare")
    assert rows(page) == ["Unknown", "Plain"]
    choose(page, "verdict", "not reproduced")
    assert rows(page) == ["Plain"]
    assert page.run("document.getElementById('shown').textContent") == "1 of 5 claims"
    page.run("filters.reset()")
    page.until("document.getElementById('shown').textContent === '5 of 5 claims'")
    choose(page, "words", "DIVERGES 0.99")
    assert rows(page) == ["Momentum 0.99 diverges"]
    choose(page, "words", "")
    page.point("filters.elements.fragile")
    page.run("filters.elements.fragile.click()")
    assert rows(page) == ["Plain", "Evil"]


def test_headings_sort_and_say_so(page):
    heading = "table.tHead.rows[0].cells[{}]"
    value, verdicts = heading.format(3), heading.format(2)
    page.run(f"{value}.querySelector('button').click()")
    assert page.run(f"{value}.ariaSort") == "ascending"
    assert rows(page) == ["Seen", "Plain", "Momentum 0.99 diverges", "Evil", "Unknown"]
    page.run(f"{value}.querySelector('button').click()")
    assert page.run(f"{value}.ariaSort") == "descending"
    assert rows(page)[1:3] == ["Evil", "Momentum 0.99 diverges"]
    page.run(f"{verdicts}.querySelector('button').click()")
    assert page.run(f"{value}.ariaSort") is None
    order = page.run("[...body.rows].map(r => r.dataset.verdict)")
    assert order == ["reproduced"] * 2 + ["partly", "not reproduced", "cannot tell"]


def test_all_can_be_reached_by_keyboard(page):
    page.press("Tab", 9)
    assert page.run("document.activeElement.textContent") == "To the claims"
    page.press("Enter", 13, "\r")
    page.until("document.activeElement.id === 'claims'")
    for _ in range(6):
        page.press("Tab", 9)
    assert page.run("document.activeElement.textContent") == "Claim"
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Enter", 13, "\r")
    assert page.run("table.tHead.rows[0].cells[0].ariaSort") == "ascending"
    assert rows(page)[0] == "Evil"
    page.run("document.querySelector('.claim > summary').focus()")
    page.press("Enter", 13, "\r")
    assert page.run("document.querySelector('.claim').open")


def test_an_anchor_opens_its_claim(chromium, site):
    chromium.open(site, "#tried.seen")
    chromium.resize(1400, 1000)
    chromium.until("document.querySelector('[id=\"tried.seen\"] figure') !== null")
    opened = "[...document.querySelectorAll('.claim[open]')].map(each => each.id)"
    assert chromium.run(opened) == ["tried.seen"]
    chromium.until("document.activeElement.closest('.claim')?.id === 'tried.seen'")
    top = "document.getElementById('tried.seen').getBoundingClientRect().top"
    assert 0 <= chromium.until(f"{top} + 1") < 1000
    captions = "[...document.querySelectorAll('[id=\"tried.seen\"] figcaption b')]"
    shown = chromium.run(f"{captions}.map(each => each.textContent)")
    assert shown == ["Figure map", "Figure lines", "Table kinds"]
    chromium.run("location.hash = '#tried.figures.plain'")
    chromium.until("document.querySelector('details.all').open")
    chromium.run("location.hash = '#nothing.of.that.name'")


def test_a_claim_says_all_there_is_of_it(page):
    page.run("location.hash = '#tried.momentum_099_diverges'")
    claim = "document.getElementById('tried.momentum_099_diverges')"
    text = page.until(f"{claim}.open && {claim}.innerText")
    assert "it says momentum_099_diverges" in text
    measured = "share of cells: 0.75, 95\xa0% interval [0.5, 0.9]"
    beside = (
        "Beside it\nPaired over 3 seeds.",
        "Floor\n0.125 – no effect",
        "What would flip it\nstable",
    )
    for said in ("section 3", measured, "Held against\n0.9", "So it is.", *beside):
        assert said in text, said
    seen = page.run("document.getElementById('tried.seen').textContent")
    assert "grid main: 4 runs of 4 cells with 1 seed, none diverged" in " ".join(seen.split())
    assert "stalegrad bundles --study tried --preset quick --grid main --all" in seen
    plain = page.run("document.getElementById('bare.plain').textContent")
    assert "snakemake --force --cores all --config preset=quick recompute=true" in plain
    assert "results/quick/bare/landscapes/x.npz" in plain


def tooltip(page: Page) -> dict[str, str]:
    """What stands beside the pointer: heading -> value."""
    page.until("document.querySelector('#vg-tooltip-element.visible td') !== null")
    read = "[...document.querySelectorAll('#vg-tooltip-element tr')].map(r => [...r.cells]"
    return dict(page.run(f"{read}.map(c => c.textContent.trim()))"))


def chart_of(page: Page, number: int) -> str:
    """An expression for one of the charts of a claim that is opened, once it is drawn."""
    page.run("location.hash = '#tried.seen'")
    page.until("document.querySelectorAll('[id=\"tried.seen\"] .chart').length === 3")
    chart = f"document.querySelectorAll('[id=\"tried.seen\"] .chart')[{number}]"
    page.run(f"{chart}.scrollIntoView({{block: 'center'}})")
    page.until(f"'drawn' in {chart}.dataset")
    return chart


def test_a_cell_of_a_heat_map_answers_the_pointer(page):
    chart = chart_of(page, 0)
    assert page.run(f"{chart}.querySelectorAll('.view').length") == 2
    cell = "[...{}.querySelectorAll('.view')[{}].querySelectorAll('path')].find(p => {})"
    lowest = "p.ariaLabel?.includes('0.81') || p.ariaLabel?.includes('0.91')"
    for view in (0, 1):
        page.point(cell.format(chart, view, lowest))
        said = tooltip(page)
        assert said["learning rate"] == "0.001"
        assert (said["published"], said["reproduced"], said["seeds"]) == ("0.81", "0.91", "3")
    # A cell without a published value has no colour, and answers all the same.
    missing = "getComputedStyle(p).fill === 'rgba(0, 0, 0, 0)' && p.ariaLabel"
    page.point(cell.format(chart, 0, missing))
    page.until("document.getElementById('vg-tooltip-element').textContent.includes('0.94')")


def test_a_curve_answers_with_its_run(page, site):
    chart = chart_of(page, 1)
    hashes = set(pd.read_csv(site.parent / "tried" / "runs.csv")["run"])
    met = f"[...{chart}.querySelectorAll('path[stroke-width=\"9\"]')][0]"
    page.point(met)
    said = tooltip(page)
    assert said["run"] in hashes
    assert (said["seed"], said["delay"], said["last test accuracy"]) == ("1", "0", "0.8")


def test_a_row_of_dots_answers_all_along(page):
    chart = chart_of(page, 2)
    page.point(f"[...{chart}.querySelectorAll('.mark-rect path')][0]")
    said = tooltip(page)
    assert (said["kind"], said["published"], said["reproduced"]) == ("a", "1.25", "1.5")


def test_text_is_shown_and_never_run(page):
    open_all(page)
    assert page.run("typeof window.evil") == "undefined"
    quote = "document.getElementById('tried.evil').querySelector('blockquote').textContent.trim()"
    assert page.run(quote) == EVIL
    assert page.run("document.querySelector('#tried h2').textContent").endswith(
        "<b>nothing</b> & more"
    )
    assert page.run("document.querySelectorAll('main b b, h2 b').length") == 0
    assert EVIL in page.run("document.getElementById('tried.tables.kinds').textContent")


CONTRAST = """
(() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = at => {
    for (; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
  };
  const low = [];
  for (const each of document.querySelectorAll('body *')) {
    const own = [...each.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || each.closest('svg, script, .unseen') || !each.getClientRects().length) continue;
    const [one, two] = [channels(getComputedStyle(each).color), ground(each)].map(light);
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    if (ratio < 4.5) low.push([each.tagName, each.className, each.textContent.slice(0, 20), ratio]);
  }
  return low;
})()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_it_fits_its_window_and_can_be_read(page, width, dark):
    page.resize(width, 850, dark=dark)
    open_all(page)
    assert page.run("document.documentElement.scrollWidth") <= width
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(21, 23, 26)") == dark
    assert page.run(CONTRAST) == []


def test_charts_follow_the_theme(page):
    chart = chart_of(page, 2)
    colour = f"getComputedStyle({chart}.querySelector('.mark-symbol path[fill=\"{{}}\"]')).fill"
    assert page.run(colour.format("#1f5fa8")) == "rgb(31, 95, 168)"
    page.resize(1400, 1000, dark=True)
    page.until(f"{chart}.querySelector('.mark-symbol path[fill=\"#7ab5f5\"]') !== null")


def test_what_a_screen_reader_needs(page):
    open_all(page)
    assert page.run("document.documentElement.lang") == "en"
    assert page.run("document.querySelectorAll('h1').length") == 1
    assert page.run("[...document.images].filter(i => !i.alt).length") == 0
    assert page.run("document.images[0].alt") == "Accuracy of <b>all</b> cells."
    assert page.run("document.querySelectorAll('th:not([scope])').length") == 0
    named = "[...document.querySelectorAll('main table')].every(table => table.caption)"
    assert page.run(named)
    labelled = "[...filters.elements].every(each => each.labels.length || each.type === 'reset')"
    assert page.run(labelled)
    twice = "(all => all.filter((one, i) => all.indexOf(one) < i))"
    assert page.run(f"{twice}([...document.querySelectorAll('[id]')].map(e => e.id))") == []
    drawings = "[...document.querySelectorAll('.view[role=graphics-document]')]"
    assert page.run(f"{drawings}.length") == page.run("document.querySelectorAll('svg').length")
    names = page.run(f"{drawings}.map(each => each.ariaLabel)")
    assert {"Figure map, published", "Figure map, reproduced", "Table kinds"} <= set(names)
    below = "document.querySelector('[data-chart=\"tried.figures.map\"] details')"
    page.run(f"{below}.open = true")
    page.until(f"{below}.querySelector('td') !== null")
    assert "0.81" in page.run(f"[...{below}.querySelectorAll('td')].map(c => c.textContent)")


def test_notebooks_and_report_are_linked_where_they_are(page, site):
    links = page.run("[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    assert "notebooks/tried.html" in links
    assert "notebooks/bare.html" not in links and "report.pdf" not in links
    beside = [link for link in links if not link.startswith("#")]
    assert [link for link in beside if not (site.parent / link).exists()] == [
        "bare/landscapes/x.npz"  # which the claim read, and nobody made
    ]
    page.run("document.querySelector('a[href=\"notebooks/tried.html\"]').click()")
    page.until("document.title === 'notebook'")


def test_missing_results_are_said_to_be_missing(chromium, tmp_path):
    plan = plan_in(tmp_path, tried=STUDY, bare=BARE)
    chromium.problems.clear()
    chromium.open(build_page(plan, tmp_path / "quick"))
    assert chromium.problems == []
    text = " ".join(chromium.run("document.body.textContent").split())
    assert text.count("No claim of this study has been judged yet") == 2
    assert "preset=quick -- results/quick/figures/tried_map.png" in text
    assert "preset=quick -- results/quick/tables/tried_cells.csv" in text
    assert chromium.run("document.getElementById('shown').textContent") == "0 of 0 claims"


WRONG = {"agrees": False, "run": "f" * 16, "name": EVIL, "reason": EVIL}
WRONG |= {"archived": f"epoch,loss\n1,0.25\n{EVIL}", "fresh": "epoch,loss\n1,0.5\n"}
CHECKED = "document.getElementById('check')"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1400])
def test_what_the_spot_check_found_is_said_on_top(chromium, tmp_path, width, dark):
    """With both histories where a run is not as archived; none of them is ever run."""
    plan = plan_in(tmp_path, "paper", bare=BARE)
    (tmp_path / "paper").mkdir()
    write_check(tmp_path / "paper", [{}] * 40 + [WRONG])
    chromium.problems.clear(), chromium.asked.clear()
    chromium.open(build_page(plan, tmp_path / "paper"))
    chromium.resize(width, 1000, dark=dark)
    assert chromium.problems == [] and chromium.run("typeof window.evil") == "undefined"
    text = " ".join(chromium.run(f"{CHECKED}.innerText").split())
    assert "Spot check. 40 of 41 runs drawn at random agree with the archive" in text
    assert "Not as archived: the run ffffffffffffffff of s" in text and EVIL in text
    histories = chromium.run(f"[...{CHECKED}.querySelectorAll('pre')].map(p => p.textContent)")
    assert histories == [WRONG["archived"], WRONG["fresh"]]
    assert "Drawn with the seed 5" not in text
    chromium.run(f"[...{CHECKED}.querySelectorAll('summary')].pop().click()")
    assert "Drawn with the seed 5 from 40 of 44 grids" in chromium.run(f"{CHECKED}.innerText")
    assert chromium.run("document.documentElement.scrollWidth") <= width
    assert chromium.run(CONTRAST) == []


def test_where_none_was_made_the_page_says_how_to_make_one(page):
    said = page.run(f"{CHECKED}.innerText")
    assert "No archived run was trained again" in said and "make reproduce" in said


# ---- Without ---------------------------------------------------------------------------------


def test_a_study_without_figures_has_no_place_for_them(site):
    text = site.read_text("utf-8")
    assert 'id="tried.shown"' in text and 'id="bare.shown"' not in text


def test_how_firm_a_verdict_is_stands_beside_it(site):
    text = site.read_text("utf-8")
    assert (
        text.count(" data-fragile>") == ROBUSTNESS.count(FLIPS) == text.count(f"<dd>{FLIPS}</dd>")
    )
    for firm in ("stable", "fragile", "not tried"):
        assert f'<td role="cell">{firm}</td>' in text


def test_the_same_results_give_the_same_bytes(tmp_path):
    plan = plan_in(tmp_path, tried=STUDY, bare=BARE)
    write_results(plan, tmp_path / "quick")
    first = build_page(plan, tmp_path / "quick").read_bytes()
    assert build_page(plan, tmp_path / "quick").read_bytes() == first


def test_a_claim_that_shows_nothing_there_is_refused(tmp_path):
    plan = plan_in(tmp_path, tried=STUDY)
    write_results(plan, tmp_path / "quick", shows=["map", "mapp", "", "", ""])
    wanted = "tried.evil shows 'mapp', which is no figure or table .* map, lines, plain, cells"
    with pytest.raises(ResultError, match=wanted):
        build_page(plan, tmp_path / "quick")


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("table: cells", "table: cels", "heat_maps.map.table' names 'cels'.* the tables .* kinds"),
        ("  map: {table", "  mop: {table", "'heat_maps.mop' names 'mop', .* the figures of"),
        ("grids: [main]", "grids: [man]", "curves.lines.grids' names 'man'.* choose from: main"),
        ("y: test_acc", "why: test_acc", "curves.lines.why' is not a known key"),
    ],
)
def test_charts_name_what_is_there(tmp_path, right, wrong, said):
    assert right in STUDY
    with pytest.raises(ConfigError, match=said):
        plan_in(tmp_path, tried=STUDY.replace(right, wrong))


def test_what_shows_a_claim_is_a_figure_or_table_of_its_study():
    for home in find_studies([ROOT / "studies"]).values():
        study = load_study(home)
        for name, function in claims_of(home).items():
            assert set(function.claim["shows"]) <= {*study.figures, *study.tables}, name


CLAIMS = '''
from stalegrad.analysis.claims import Finding, claim

@claim(where="section 4", shows=["fig2", "numbers"])
def reads(results):
    """'it reads'"""
    results.grid("b", "a"), results.staleness, results.arrays("fig1")
    return Finding("reproduced", "a count", 1.0, "any", "It reads.")

@claim(where="section 5")
def rests(results):
    """'it rests'"""
    return Finding("reproduced", "a count", 1.0, "any", "It rests.")
'''


def test_a_verdict_says_what_was_read_and_what_shows_it(tmp_path):
    home = tmp_path / "reading"
    (home / "schedules").mkdir(parents=True)
    (home / "claims.py").write_text(CLAIMS)
    runs = pd.DataFrame({"grid": ["a", "b"], "run": ["1", "2"], "seed": 1})
    runs.to_csv(home / "runs.csv", index=False)
    pd.DataFrame({"replicate": [1]}).to_csv(home / "staleness.csv", index=False)
    np.savez(home / "schedules" / "fig1.npz", counts=np.ones(1))
    table = judge(StudyResults(home, "paper", home)).set_index("claim")
    read = table.loc["reads", ["grids", "files", "shows"]]
    assert list(read) == ["a b", "schedules/fig1.npz staleness.csv", "fig2 numbers"]
    assert list(table.loc["rests", ["grids", "files", "shows"]]) == ["", "", ""]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (-12.5, "\u221212.5"),
        (1234567.0, "1,234,567"),
        (3, "3"),
        (True, "yes"),
        (2.5e-6, "2.5e\u221206"),
        (-np.inf, "\u2212\u221e"),
        (np.nan, ""),
        (None, ""),
        ("a-b", "a-b"),
    ],
)
def test_numbers_as_the_page_has_them(value, text):
    assert _number(value) == text


def test_a_long_list_of_cells_is_cut_by_its_first_column():
    cells = pd.DataFrame({"workers": np.repeat([2, 5], 16), "delay": [*range(16)] * 2, "mean": 1.0})
    drawn = charts.dots(cells.assign(published=2.0))
    assert [panel.title for panel in drawn.panels] == ["workers 2", "workers 5"]
    assert [len(panel.rows) for panel in drawn.panels] == [16, 16]
    assert len(charts.dots(cells[:16].assign(published=2.0)).panels) == 1


def test_infinite_values_of_a_diverged_run_do_not_break_the_page(chromium, tmp_path):
    plan = plan_in(tmp_path, tried=STUDY)
    write_results(plan, tmp_path / "quick")
    for file, column in (("tried/history", "test_accuracy"), ("tables/tried_kinds", "mean")):
        path = tmp_path / "quick" / f"{file}.csv"
        frame = pd.read_csv(path)
        frame.loc[0, column] = np.inf
        frame.to_csv(path, index=False)
    chromium.problems.clear()
    chromium.open(build_page(plan, tmp_path / "quick"))
    open_all(chromium)
    assert chromium.problems == []
    lines = chromium.run("CHARTS['tried.figures.lines'].panels.flatMap(p => p.rows)")
    assert sorted(len(row["x"]) for row in lines) == [2, 3, 3, 3]


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("x: lr, y", "x: rate, y", "heat_maps.map of tried names the column 'rate', which the tab"),
        ("y: test_accuracy", "y: accuracy", "curves.lines .*'accuracy', which history.csv does no"),
        ("colour: lr", "colour: rate", "curves.lines of tried .* 'rate', which runs.csv does not"),
    ],
)
def test_charts_name_columns_that_are_there(tmp_path, right, wrong, said):
    assert right in STUDY
    plan = plan_in(tmp_path, tried=STUDY.replace(right, wrong))
    write_results(plan, tmp_path / "quick")
    with pytest.raises(ResultError, match=said):
        build_page(plan, tmp_path / "quick")


def test_the_report_does_not_wait_for_the_charts():
    """The PDF is made where the page's libraries are not installed."""
    code = "import stalegrad.report, sys; assert not {'altair', 'vl_convert'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
