"""Every Python block of docs/python.md runs, and the first one says what it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs" / "python.md").read_text(), re.S | re.M
)


def run(block: str, folder: Path) -> str:
    (folder / "block.py").write_text(block)
    command = [sys.executable, "-W", "error", folder / "block.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_runs(number, tmp_path):
    said = run(BLOCKS[number], tmp_path)
    assert bool(said) == ("print(" in BLOCKS[number])


def test_there_are_blocks():
    assert len(BLOCKS) >= 6


def test_the_first_block_has_ten_lines_of_code():
    lines = [line for line in BLOCKS[0].splitlines() if line and line[0] not in "# )"]
    assert len(lines) <= 10
