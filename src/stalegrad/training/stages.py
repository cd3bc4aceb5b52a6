"""The stages of a run of the workflow: about how long each will take, and how long each took.

A stage is some rules. Training and the spot check have times of their own, by the measured speed of
this machine; the others are told from how long a job takes here until it has imported what it
needs, as it was measured with that speed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from stalegrad.io.wording import duration
from stalegrad.training.speed import Speeds

# Stage -> how the names of its rules begin, in the order in which they are told.
STAGES: Mapping[str, tuple[str, ...]] = {
    "data": ("fetch_dataset",),
    "training": ("train_", "follow_runs", "save_weights", "compute_landscape", "collect_runs"),
    "simulations": ("simulate_", "trace_runs"),
    "figures, tables and verdicts": ("judge_", "plot_", "collect_verdicts"),
    "notebooks": ("render_notebook",),
    "spot check": ("spot_check",),
    "report and page": ("build_report", "build_page", "hold_to_archive"),
}
# Core seconds of a job at the paper preset, from the archive, where START is what a job takes to
# start. What is trained comes on top.
START = 1.4
JOB_SECONDS: Mapping[str, float] = {
    "simulations": 9.0,
    "figures, tables and verdicts": 7.0,
    "notebooks": 9.0,
    "training": 4.0,
    "report and page": 7.0,
}


def stage_of(rule: str) -> str | None:
    """The stage that a rule belongs to; None for one that makes nothing."""
    for stage, beginnings in STAGES.items():
        if rule.startswith(beginnings):
            return stage
    return None


def expected(
    rules: Iterable[str], speeds: Speeds | None, cores: int | None, check_minutes: float
) -> str:
    """A line on how long the stages will take, beside training; '' where none is to come.

    rules: of each job that will run. cores: that the jobs share; None if they run elsewhere.
    """
    jobs = Counter(stage for rule in rules if (stage := stage_of(rule)))
    scale = (speeds.start if speeds else START) / START / (cores or 1)
    told = {stage: scale * jobs[stage] * each for stage, each in JOB_SECONDS.items()}
    if jobs["spot check"]:
        told["spot check"] = 60 * check_minutes
    parts = [f"{stage} {duration(told[stage])}" for stage in STAGES if told.get(stage)]
    total = duration(sum(told.values()))
    return f"expected: about {total} beside what is trained: {', '.join(parts)}" if parts else ""


def spent(jobs: Iterable[tuple[str, float, float]]) -> list[str]:
    """Lines on how long each stage took. jobs: rule, start and end of each, in seconds.

    A stage lasts while one of its jobs is running. Stages overlap.
    """
    by_stage: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for rule, start, end in jobs:
        if stage := stage_of(rule):
            by_stage[stage].append((start, end))
    if not by_stage:
        return []
    width = max(map(len, by_stage))
    lines = [
        f"  {stage:{width}}  {duration(_covered(by_stage[stage])):>8}"
        for stage in STAGES
        if stage in by_stage
    ]
    every = [span for spans in by_stage.values() for span in spans]
    whole = max(end for _, end in every) - min(start for start, _ in every)
    return ["time by stage:", *lines, f"  {'together':{width}}  {duration(whole):>8}"]


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
