"""The stages of a run of the workflow: about how long each will take, and how long each took.

A stage is some rules. Training and the spot check have times of their own, by the measured speed of
this machine; the others are told from how long a job takes here until it has imported what it
needs, as it was measured with that speed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch

from stalegrad.io.wording import duration
from stalegrad.training.speed import Speeds

# Stage -> patterns of the names of its rules, in the order in which they are told.
STAGES: Mapping[str, tuple[str, ...]] = {
    "data": ("fetch_dataset",),
    "simulations": ("simulate_*",),
    "training": ("train_*", "trace_runs"),
    "landscapes": ("follow_runs", "save_weights", "compute_landscape"),
    "figures and tables": ("collect_runs", "plot_*"),
    "verdicts": ("judge_*", "collect_verdicts"),
    "spot check": ("spot_check",),
    "report": ("render_notebook", "build_*", "hold_to_archive"),
}
NO_STAGE = ("all", "total")
# Core seconds of a job at the paper preset, from the archive, where START is what a job takes to
# start. What is trained comes on top.
START = 1.4
JOB_SECONDS: Mapping[str, float] = {
    "simulations": 9.0,
    "training": 5.0,
    "landscapes": 4.0,
    "figures and tables": 7.0,
    "verdicts": 12.0,
    "report": 8.0,
}


def stage_of(rule: str) -> str:
    """The stage of a rule; of one that no stage names, the rule itself in words."""
    for stage, patterns in STAGES.items():
        if any(fnmatch(rule, pattern) for pattern in patterns):
            return stage
    return rule.replace("_", " ")


def expected(
    rules: Iterable[str], speeds: Speeds | None, cores: int | None, check_minutes: float
) -> str:
    """A line on how long the stages will take, beside training; '' where none is to come.

    rules: of each job that will run. cores: that the jobs share; None if they run elsewhere.
    """
    jobs = Counter(stage_of(rule) for rule in rules if rule not in NO_STAGE)
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
        if rule not in NO_STAGE:
            by_stage[stage_of(rule)].append((start, end))
    if not by_stage:
        return []
    width = max(map(len, by_stage))
    lines = [
        f"  {stage:{width}}  {duration(_covered(by_stage[stage])):>8}"
        for stage in sorted(by_stage, key=[*STAGES, *by_stage].index)
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
