"""`snakemake --report`, opened in a browser and clicked through to a figure."""

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import home_of

from stalegrad.analysis import style
from stalegrad.io.datasets import fetch_dataset
from stalegrad.planning.config import load_study

ROOT = Path(__file__).parents[1]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

# Runs in the page: click through the menu to a category, open its first file, say what is shown.
CLICK_THROUGH = """
<script>
window.addEventListener("load", async () => {
  const until = async find => {
    for (let i = 0; i < 100; i++) {
      const found = find();
      if (found) return found;
      await new Promise(wake => setTimeout(wake, 100));
    }
    throw new Error("not found: " + find);
  };
  const seen = {};
  try {
    for (const name of %s) {
      const label = await until(() => [...document.querySelectorAll("a span")]
        .find(e => e.textContent.trim() === name));
      label.closest("a").click();
    }
    const view = await until(() => document.querySelector("a[iconname=eye]"));
    seen.listed = document.body.innerText;
    view.click();
    seen.width = await until(() =>
      document.querySelector("img[src^='data:image/png']")?.naturalWidth);
  } catch (error) {
    seen.error = String(error) + " in: " + document.body.innerText;
  }
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.appendChild(out);
});
</script></body>"""


def click_through(page: Path, folder: Path, categories: list[str]) -> dict:
    """What the browser shows of the report at `page` once `categories` were clicked."""
    source = page.read_text(encoding="utf-8")
    script = CLICK_THROUGH % json.dumps(categories)
    clicked = folder / "clicked.html"
    clicked.write_text(script.join(source.rsplit("</body>", 1)), encoding="utf-8")
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"]
    flags += ["disable-background-networking", "disable-component-update", "disable-sync"]
    flags += [f"user-data-dir={folder / 'profile'}", "virtual-time-budget=120000", "dump-dom"]
    done = subprocess.run(
        [BROWSER, *(f"--{flag}" for flag in flags), clicked.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found.group(1)))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium, which is not installed")
def test_a_figure_is_two_clicks_away(tmp_path: Path):
    data = ROOT / "resources" / "data"
    fetch_dataset("mnist", data)
    page = tmp_path / "report.html"
    # Two of each kind of category: where there is one alone, the page leaves its menu out.
    targets = ["figures/jain2018_fig1.png", "tables/jain2018_fig1.csv", "verdicts.csv"]
    targets = [f"results/smoke/{target}" for target in targets]
    snakemake = [sys.executable, "-m", "snakemake", "--directory", str(tmp_path)]
    snakemake += ["--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
    settings = ["--config", "preset=smoke", "studies=[jain2018]", f"data_folder={data}"]
    for name in ("config", "src", "studies", "paper"):
        (tmp_path / name).symlink_to(ROOT / name)
    for more in ([], ["--report", str(page)]):
        subprocess.run(
            [*snakemake, *settings, *more, "--", *targets], check=True, capture_output=True
        )
    caption = load_study(home_of("jain2018")).figures["fig1"].caption
    assert caption[:40] in page.read_text(encoding="utf-8")
    seen = click_through(page, tmp_path, ["jain2018", "Figures"])
    assert "error" not in seen, seen
    assert "jain2018_fig1" in seen["listed"]
    full = {round(200 * inches) for inches in (style.WIDTH, style.HALF)}  # at 200 dots an inch
    assert seen["width"] in full  # the figure itself, and no thumbnail
