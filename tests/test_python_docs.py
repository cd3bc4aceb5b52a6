"""Every Python block of docs/python.md runs, and the first one says what it shows."""

import re
from pathlib import Path

import pytest
from forked import Ended, run_all

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs" / "python.md").read_text(), re.S | re.M
)


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> list[Ended]:
    """How each block ended, as a script of its own."""
    programs = {}
    for number, block in enumerate(BLOCKS):
        script = tmp_path_factory.mktemp("block") / "block.py"
        script.write_text(block)
        start = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
        programs[str(number)] = start
    return list(run_all(programs, ROOT).values())


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_runs(number, ended):
    assert ended[number].returncode == 0, ended[number].stderr
    assert bool(ended[number].stdout) == ("print(" in BLOCKS[number])


def test_there_are_blocks():
    assert len(BLOCKS) >= 6


def test_the_first_block_has_ten_lines_of_code():
    lines = [line for line in BLOCKS[0].splitlines() if line and line[0] not in "# )"]
    assert len(lines) <= 10
