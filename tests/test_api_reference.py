"""The API reference: built from the docstrings, its pages opened in a browser."""

import functools
import html
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from packages import need

ROOT = Path(__file__).parents[1]
# Page -> what it must show.
PAGES = {
    "stalegrad.html": ["planning", "training", "analysis", "data_order"],
    "stalegrad/planning/cell.html": ["class Cell", "parse_cell"],
    "stalegrad/planning/expand.html": ["study_cells", "with_keys"],
    "stalegrad/training/replay.html": ["class ReplayState", "advance_in_steps"],
    "stalegrad/rules/adam.html": ["class Adam", "beta1"],
    "stalegrad/analysis/claims.html": ["class Finding", "judge", "claims_of"],
    "stalegrad/clusters/parameter_server.html": ["class ParameterServer", "compute_ms"],
    # A search in all pages, by pdoc's own script and index.
    "stalegrad.html?search=advance_captured": ["stalegrad.training.cuda_graph.advance_captured"],
}
# What pdoc's script says of the index of the search, with and without Node.js at build time.
INDEX_MADE = "using precompiled search index|building search index"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """The folder that the reference is built in."""
    folder = tmp_path_factory.mktemp("api")
    build = [sys.executable, str(ROOT / "tools" / "api_reference.py"), str(folder)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def address(reference) -> Iterator[str]:
    """Where the reference is served on this machine: scripts of a page that is opened as a file may
    not fetch the index of the search."""
    need(["chromium"], "chromium")
    handler = functools.partial(Quiet, directory=reference)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def opened(url: str, profile: Path) -> tuple[str, list[str]]:
    """The text of a page once its scripts have run, and what they said on the console but for how
    the index of the search was made."""
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"]
    flags += ["disable-background-networking", "disable-component-update", "disable-sync"]
    flags += [f"user-data-dir={profile}", "virtual-time-budget=30000", "enable-logging=stderr"]
    done = subprocess.run(
        [shutil.which("chromium"), *(f"--{flag}" for flag in flags), "--dump-dom", url],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "</html>" in done.stdout, done.stderr[-2000:]
    shown = re.sub(r"<(script|style)\b.*?</\1>", "", done.stdout, flags=re.DOTALL)
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", "", shown)).split())
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return text, [line for line in said if not re.search(f'"({INDEX_MADE})', line)]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_the_reference_opens(address, tmp_path, page):
    text, console = opened(f"{address}/{page}", tmp_path / "profile")
    assert not console, console
    missing = [name for name in PAGES[page] if name not in text]
    assert not missing, f"{page} does not show {missing}: {text[:500]}"


@pytest.mark.slow
def test_the_reference_has_a_page_of_every_public_module(reference):
    source = ROOT / "src" / "stalegrad"
    modules = {path.relative_to(source.parent).with_suffix("") for path in source.rglob("*.py")}
    modules = {path.parent if path.name == "__init__" else path for path in modules}
    public = [path for path in modules if not any(part.startswith("_") for part in path.parts)]
    assert len(public) > 50
    assert [str(p) for p in public if not (reference / p).with_suffix(".html").exists()] == []
