"""What docs/adding-a-paper.md says, done in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from stalegrad.io.datasets import fetch_dataset

ROOT = Path(__file__).parents[1]
DATA = ROOT / "resources" / "data"
GUIDE = (ROOT / "docs" / "adding-a-paper.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The first code block of the guide in a language."""
    return re.search(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL).group(1)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("config", "workflow", "src", "studies", "paper", "envs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "Snakefile", tmp_path)
    fetch_dataset("mnist", DATA)
    return tmp_path


@pytest.mark.slow
def test_a_study_is_one_new_folder(copy: Path):
    home = copy / "studies" / "tiny"
    home.mkdir()
    (home / "study.yaml").write_text(block("yaml"))
    (home / "claims.py").write_text(block("python"))
    targets = ["results/smoke/tiny/runs.csv", "results/smoke/figures/tiny_curves.pdf"]
    targets.append("results/smoke/verdicts.csv")
    environment = os.environ | {"PYTHONPATH": str(copy / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--config", "preset=smoke"]
        + ["studies=[tiny]", f"data_folder={DATA}", "--", *targets],
        cwd=copy, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    runs = pd.read_csv(copy / targets[0])
    assert len(runs) == 2 * 2 * 2  # rates, delays and the two seeds of smoke
    assert runs["final_test_accuracy"].between(0, 1).all()
    assert (copy / targets[1]).read_bytes().startswith(b"%PDF")
    verdicts = pd.read_csv(copy / targets[2])
    assert list(verdicts["claim"]) == ["delay_hurts"]
    assert verdicts.loc[0, "quote"] == "delay hurts at every learning rate"
    assert verdicts.loc[0, "verdict"] == "cannot tell"  # smoke trains on a few images
