"""Extensions that change no file that is there: an update rule, a problem and a cluster, each one
file of tests/extensions, and a study in a folder outside the repository."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from checkout import ROOT, Checkout
from test_freshness import stalegrad

from stalegrad.cli.new_study import TEMPLATE
from stalegrad.io.files import provenance_path
from stalegrad.planning.plan import Plan
from stalegrad.planning.sources import PACKAGE
from stalegrad.problems.least_squares import LeastSquares
from stalegrad.report import write_sources

EXTENSIONS = Path(__file__).parent / "extensions"
GUIDE = (ROOT / "docs" / "adding-a-study.md").read_text(encoding="utf-8")
LATEX = shutil.which("latexmk") or shutil.which("tectonic")


# ---- a rule, a problem, a cluster -----------------------------------------------------------


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the package."""
    shutil.copytree(PACKAGE, tmp_path / "stalegrad", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def train(copy: Path, **flags: object) -> tuple[str, pd.DataFrame]:
    """Hash and history of a run of the copy."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    said = stalegrad(copy, "run", *given, "--threads=1", "--output=out.csv").stdout
    return re.match("run ([0-9a-f]{16}):", said)[1], pd.read_csv(copy / "out.csv")


def test_a_rule_is_one_file(copy):
    shutil.copy(EXTENSIONS / "sign_sgd.py", copy / "stalegrad" / "rules")
    steps, lr, decay = 30, 0.02, 0.5
    problem = {"problem": "least_squares", "rows": 64, "dimension": 8, "noise": 0.1}
    rule = {"rule": "sign_sgd", "lr": lr, "decay": decay}
    # Of minibatches of all rows, no gradient depends on how they are drawn.
    _, history = train(copy, **problem, **rule, delay=1, batch_size=64, epochs=steps)

    inputs, targets = LeastSquares(rows=64, dimension=8, noise=0.1).data()
    solution = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    weights, mean, waiting, errors = np.zeros(8), np.zeros(8), None, []
    for _ in range(steps):
        arrived, waiting = waiting, inputs.T @ (inputs @ weights - targets) / 64
        if arrived is not None:
            mean = decay * mean + (1 - decay) * arrived
            weights = weights - lr * np.sign(mean)
        errors.append(((inputs @ (weights - solution)) ** 2).mean() / 2)
    np.testing.assert_allclose(history["excess_loss"], errors, rtol=1e-4)
    assert errors[-1] < errors[0] / 4


def test_a_problem_of_ones_own_module_and_data_is_one_file(copy):
    shutil.copy(EXTENSIONS / "digits.py", copy / "stalegrad" / "problems")
    _, history = train(
        copy, problem="digits", units=24, lr=0.03, momentum=0.8, delay=2, batch_size=30, epochs=8
    )
    assert history["test_accuracy"].iloc[0] < 0.8 < history["test_accuracy"].iloc[-1]
    assert history["updates"].iloc[-1] == 8 * 1_500 // 30 - 2
    provenance = json.loads(provenance_path(copy / "out.csv").read_text())
    assert provenance["backend"] == "torch"


def test_a_cluster_read_from_a_file_is_one_file(copy):
    shutil.copy(EXTENSIONS / "recorded.py", copy / "stalegrad" / "clusters")
    read = np.maximum(0, np.arange(16) - np.arange(16) % 4)  # staleness 0, 1, 2, 3, 0, ...
    rows = {"seconds": 0.5 * np.arange(1, 17), "worker": np.arange(16) % 4, "read_version": read}
    pd.DataFrame(rows).to_csv(copy / "arrivals.csv", index=False)
    run = {"problem": "least_squares", "rows": 64, "dimension": 8, "epoch_samples": 128}
    run |= {"partition": "independent", "lr": 0.1, "batch_size": 16, "epochs": 2}
    run |= {"cluster": "recorded", "file": "arrivals.csv"}

    recorded, history = train(copy, **run)
    assert list(history["mean_staleness"]) == [1.5, 1.5]
    assert list(history["max_staleness"]) == [3, 3]
    assert list(history["simulated_seconds"]) == [4.0, 8.0]

    pd.DataFrame(rows | {"read_version": np.arange(16)}).to_csv(copy / "arrivals.csv", index=False)
    (copy / "out.csv").unlink()
    another, history = train(copy, **run)
    assert another != recorded  # the content of the file is part of the hash
    assert list(history["mean_staleness"]) == [0.0, 0.0]


# ---- a study outside the repository ---------------------------------------------------------


@pytest.fixture(scope="module")
def outside(tmp_path_factory) -> tuple[Checkout, Path, list[str]]:
    """A checkout, a new study in a folder outside it, and the lines that told what to do next."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "project").mkdir()
    checkout = Checkout.make(folder / "project", "--cores", "1")
    checkout.has_all_studies()
    command = [sys.executable, "-m", "stalegrad", "new-study", "mine", "--folder", "../elsewhere"]
    done = subprocess.run(command, cwd=checkout.folder, capture_output=True, text=True, check=True)
    return checkout, folder / "elsewhere" / "mine", done.stdout.splitlines()


def pytest_of(study: Path) -> subprocess.CompletedProcess:
    """The tests that a study has of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(study)]
    return subprocess.run(command, cwd=study, capture_output=True, text=True)


@pytest.mark.slow
def test_a_study_is_one_folder_outside_the_repository(outside):
    checkout, home, said = outside
    (printed,) = (shlex.split(line) for line in said if "snakemake" in line)
    assert printed[:4] == ["snakemake", "--cores", "all", "--config"]
    made = ["mine/runs.csv", "figures/mine_curves.pdf", "tables/mine_errors.csv", "verdicts.csv"]
    made += ["notebooks/mine.html", *(["report.pdf"] if LATEX else [])]
    targets = [f"results/smoke/{name}" for name in made]
    done = checkout.run("--config", *printed[4:], "--", *targets)
    assert done.returncode == 0, done.stdout

    results = checkout.results
    runs = pd.read_csv(results / "mine" / "runs.csv")
    assert len(runs) == 3 * 2 * 2  # rates, delays and seeds
    assert (runs["final_excess_loss"] > 0).all() and not runs["diverged"].any()
    assert (results / "figures" / "mine_curves.pdf").read_bytes().startswith(b"%PDF")
    assert len(pd.read_csv(results / "tables" / "mine_errors.csv")) == 3 * 2
    (verdict,) = pd.read_csv(results / "verdicts.csv").to_dict("records")
    assert (verdict["study"], verdict["claim"]) == ("mine", "delay_slows_learning")
    assert verdict["quote"] == "Delay slows learning at every learning rate."
    assert verdict["verdict"] == "cannot tell"  # smoke trains on a few samples
    assert "Not shown" not in (results / "notebooks" / "mine.html").read_text(encoding="utf-8")

    if LATEX:
        assert (results / "report.pdf").read_bytes().startswith(b"%PDF")
    else:
        settings = {"preset": "smoke", "studies": ["mine"], "studies_folders": ["../elsewhere"]}
        plan = Plan.load(settings, checkout.folder / "config")
        write_sources(plan, results, checkout.folder / "paper")
    assert r"\input{sections/mine}" in (results / "report" / "studies.tex").read_text()
    section = (results / "report" / "sections" / "mine.tex").read_text()
    assert section == (home / "section.tex").read_text()
    assert "not measured: mine." not in (results / "report" / "values.tex").read_text()


@pytest.mark.slow
def test_the_test_of_its_claim_passes_and_notices_another_threshold(outside, tmp_path):
    _, home, said = outside
    assert f"    pytest {Path('..', 'elsewhere', 'mine')}" in said
    done = pytest_of(home)
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout
    broken = Path(shutil.copytree(home, tmp_path / "mine"))
    claims = (broken / "claims.py").read_text()
    assert '"at least", 1.1,' in claims
    (broken / "claims.py").write_text(claims.replace('"at least", 1.1,', '"at least", 0.1,'))
    done = pytest_of(broken)  # chance alone meets this, so that the criterion tells nothing
    assert done.returncode == 1 and "4 failed" in done.stdout, done.stdout


# ---- the guide ------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["yaml", "python"])
def test_the_guide_shows_what_is_run_here(language):
    files = [*TEMPLATE.glob("*.in"), *EXTENSIONS.glob("*.py")]
    run = [file.read_text(encoding="utf-8").replace("@NAME@", "mine") for file in files]
    blocks = re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)
    assert len(blocks) >= 1
    for shown in blocks:
        # '...' alone on a line stands for what is left out.
        parts = re.split(r"^ *\.\.\.\n", shown, flags=re.MULTILINE)
        assert any(all(part in text for part in parts) for text in run), shown


def test_every_file_that_the_guide_names_is_there():
    linked = re.findall(r"\]\(([^)#]+)\)", GUIDE)
    assert len(linked) >= len(list(EXTENSIONS.glob("*.py")))
    assert not [name for name in linked if not (ROOT / "docs" / name).exists()]
