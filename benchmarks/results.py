"""Results of `benchmarks/gpu`: rows of stages, as JSON and as Markdown, written after each row."""

import json
import time
from pathlib import Path
from typing import Any

from stalegrad.io.files import write_atomically


class Results:
    """What `results.json` and `results.md` in a folder hold. machine: where it was measured."""

    def __init__(self, folder: Path, machine: dict[str, Any]):
        self._folder, self._machine = folder, machine
        self._stages: dict[str, dict[str, Any]] = {}
        self._said: list[str] = []
        self._begun = time.monotonic()

    def begin(self, name: str, title: str, limit: float) -> None:
        at = round(time.monotonic() - self._begun, 1)
        self._stages[name] = {"title": title, "limit": round(limit, 1), "begun": at, "rows": []}
        self._write()

    def add(self, name: str, row: dict[str, Any]) -> None:
        self._stages[name]["rows"].append(row)
        print(name, row, flush=True)
        self._write()

    def end(self, name: str, how: str) -> None:
        """how: `whole`, or why it is not."""
        stage = self._stages[name]
        stage["ended"] = how
        stage["seconds"] = round(time.monotonic() - self._begun - stage["begun"], 1)
        self._write()

    def conclude(self, sentences: list[str]) -> None:
        self._said = sentences
        print(*sentences, sep="\n", flush=True)
        self._write()

    def rows(self, name: str) -> list[dict[str, Any]]:
        return self._stages.get(name, {}).get("rows", [])

    @property
    def failed(self) -> bool:
        """Whether a stage has ended with an error."""
        return any(s.get("ended", "").startswith("error") for s in self._stages.values())

    def _write(self) -> None:
        content = {"machine": self._machine, "stages": self._stages, "said": self._said}
        write_atomically(self._folder / "results.json", json.dumps(content, indent=1) + "\n")
        write_atomically(self._folder / "results.md", self._markdown())

    def _markdown(self) -> str:
        about = self._machine
        lines = [f"# {about['device']}", ""]
        lines += [f"PyTorch {about['torch']}, Python {about['python']}, commit {about['commit']}."]
        lines += [*(f"- {sentence}" for sentence in self._said), ""]
        for stage in self._stages.values():
            ended = stage.get("ended", "under way")
            taken = f", {stage['seconds']:.0f} s" if "seconds" in stage else ""
            lines += [f"## {stage['title']}", "", f"{ended.capitalize()}{taken}.", ""]
            lines += _tables(stage["rows"])
        return "\n".join(lines).rstrip() + "\n"


def _tables(rows: list[dict[str, Any]]) -> list[str]:
    """A table for each first column that rows have, in their order."""
    lines = []
    for first in dict.fromkeys(next(iter(row)) for row in rows):
        alike = [row for row in rows if next(iter(row)) == first]
        heads = list(dict.fromkeys(key for row in alike for key in row))
        lines += [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
        for row in alike:
            cells = [str(row.get(head, "")).replace("|", "/") for head in heads]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return lines
