"""The stages of `benchmarks/gpu`: see there. Rehearsed on a CPU by tests/test_gpu_benchmark.py.

A stage is a generator of rows. What it has made so far is kept whatever ends it: its own limit, the
end of the command's time, or an error, which the results then name.
"""

import functools
import itertools
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from replay import plain, torch_threads
from results import Results

from stalegrad.io.datasets import fetch_dataset, local_source
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import Cell, parse_cell
from stalegrad.planning.config import Preset, load_study
from stalegrad.planning.expand import study_cells
from stalegrad.problems import Task
from stalegrad.problems.lenet5 import LeNet5
from stalegrad.training import cuda_graph, replay
from stalegrad.training.backends import Backend, on_card, resolve_device
from stalegrad.training.backends.batched import BatchedBackend
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.bundles import Place, plan_runs, train_bundle
from stalegrad.training.machine import describe_machine, settled_torch
from stalegrad.training.replay import ReplayState, Run

STUDY = Path(__file__).parents[1] / "studies" / "jain2018"
MARGIN = 20.0
SEED = 4  # of Figure 2's runs that are kept; the archive has those of 1 to 3

RULES: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.05},
    "momentum": {"name": "sgd", "lr": 0.02, "momentum": 0.9},
    "nesterov, clipped": {
        **{"name": "sgd", "lr": 0.02, "momentum": 0.9, "nesterov": True, "clip_norm": 1.0}
    },
    "adam, warm-up": {"name": "adam", "lr": 0.001, "warmup_epochs": 1.0},
    "adagrad": {"name": "adagrad", "lr": 0.01},
    "dc_asgd": {"name": "dc_asgd", "lr": 0.02, "compensation": 1.0},
    "dc_asgd, adaptive": {"name": "dc_asgd", "lr": 0.02, "compensation": 1.0, "adaptive": True},
    "delay_adaptive": {"name": "delay_adaptive", "lr": 0.05, "concurrency": 2},
    "staleness_scaled": {"name": "staleness_scaled", "lr": 0.02, "momentum": 0.9},
    "gap_aware": {"name": "gap_aware", "lr": 0.02, "momentum": 0.9},
    "delayed_nesterov": {"name": "delayed_nesterov", "lr": 0.05, "period": 3},
    "muon": {"name": "muon", "lr": 0.01, "adam_lr": 0.001},
}
_SERVER = {"name": "parameter_server", "workers": 2, "compute_ms": 5.0}
CLUSTERS: dict[str, dict[str, Any]] = {
    "constant_delay": {"cluster": {"name": "constant_delay", "delay": 3}},
    "hub_and_spoke": {
        "cluster": {"name": "hub_and_spoke", "workers": 3, "compute_time": {"name": "expon"}}
    },
    "parameter_server": {"cluster": _SERVER, "partition": "labels_uncut"},
    "synchronous": {"cluster": _SERVER | {"synchronous": True}, "partition": "dataset"},
    "heterogeneous, weighted, local steps": {
        "cluster": {
            **{"name": "heterogeneous", "workers": 3, "slowest": 4.0},
            "policy": {"name": "buffer", "gradients": 2},
        },
        "local_steps": 2,
    },
    "pipeline": {"cluster": {"name": "pipeline", "stages": 3}},
}
# Of the weights after two epochs, relative to their norm, against the same runs on the CPU: what is
# allowed in float64, and in float32 as a multiple of what rounding does. That depends on the rule
# (AdaGrad's first step is the sign of each gradient, however small) and on luck, so it is measured:
# how far the CPU's runs in float32 are from those in float64, at most, on any of the clusters.
EXACT, ROUNDINGS = 1e-12, 5.0


@dataclass(frozen=True)
class Sizes:
    """How large the stages are, and how long each may take, in seconds.

    exact_samples: of the training set, in runs held to the CPU. runs: stepped together, in the
    second stage. row: seconds of one measurement there. train, test: of Figure 2's images; epochs
    and rates: of its runs.
    """

    exact_samples: int = 128
    exact_batch: int = 16
    captures: int = 20
    runs: tuple[int, ...] = (1, 10, 60, 300, 1000)
    batch: int = 64
    most_steps: int = 200
    row: float = 1.0
    train: int = 60_000
    test: int = 10_000
    epochs: int = 30
    rates: int = 10
    limits: dict[str, float] = field(
        default_factory=lambda: {"exact": 110, "rates": 170, "figure2": 90, "bundles": 540}
    )


class TimeUp(Exception):
    """A stage has reached its limit."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TimeUp in the block once it has taken so long (in the main thread alone)."""

    def up(*_: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Bench:
    """Where it is measured. data: a folder as `load_dataset` reads it."""

    data: Path
    output: Path
    device: torch.device
    sizes: Sizes

    def task(self, device: torch.device | None = None, **changes: Any) -> Task:
        problem = LeNet5(dataset="mnist", **changes)
        return problem.load(self.data, device or self.device, torch.float32)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure(
    data: Path,
    output: Path,
    seconds: float,
    device: str,
    carried: Sequence[str] = (),
    sizes: Sizes | None = None,
) -> int:
    """All stages, in `seconds` in all, and MARGIN before its end at the latest, since an epoch
    that is under way is waited for. Returns 0 if every stage reached its end or its limit."""
    sizes = sizes or Sizes()
    end = time.monotonic() + seconds - min(MARGIN, seconds / 10)
    place = resolve_device(device)
    with tempfile.TemporaryDirectory() as unpacked, settled_torch(place):
        fetch_dataset("mnist", unpacked, sources=[local_source("mnist", data)])
        bench = Bench(Path(unpacked), output, place, sizes)
        results = Results(output, describe_machine(place) | {"carried": list(carried)})
        for name, (title, stage) in STAGES.items():
            limit = min(sizes.limits[name], end - time.monotonic())
            run_stage(results, name, title, lambda stage=stage: stage(bench), limit)
        results.conclude(conclusions(results, bench))
    return int(results.failed)


def run_stage(
    results: Results,
    name: str,
    title: str,
    rows: Callable[[], Iterator[dict[str, Any]]],
    limit: float,
) -> None:
    """Add the rows of a stage to the results as they come."""
    results.begin(name, title, limit)
    if limit <= 0:
        results.end(name, "no time was left for it")
        return
    try:
        with limited(limit):
            for row in rows():
                results.add(name, row)
    except TimeUp:
        results.end(name, f"cut at its limit of {limit:.0f} s")
    except Exception as error:
        results.end(name, f"error: {_told(error)}")
    else:
        results.end(name, "whole")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def attempted(about: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row of `work`, or one that says why there is none; other rows go on."""
    try:
        return about | work()
    except TimeUp:
        raise
    except Exception as error:
        torch.cuda.empty_cache()
        return about | {"error": _told(error)}


# ---- (a) the same numbers ----


@contextmanager
def not_captured() -> Iterator[None]:
    """Steps are called and never captured."""
    before, cuda_graph.WARM_UP = cuda_graph.WARM_UP, sys.maxsize
    try:
        yield
    finally:
        cuda_graph.WARM_UP = before


def exactness(bench: Bench) -> Iterator[dict[str, Any]]:
    """Each rule on each cluster, in both precisions: against the CPU, and captured against not."""
    sizes = bench.sizes
    images = {"train_samples": sizes.exact_samples, "test_samples": 1}
    own, other = bench.task(torch.device("cpu"), **images), bench.task(**images)
    targets = own.train[1].numpy()
    if bench.device.type == "cuda":
        yield attempted({"what": "no step waits for the host"}, lambda: _waits(other, targets))
    for rule in RULES:
        runs = {}
        for cluster in CLUSTERS:
            cells = [_exact_cell(sizes, rule, cluster, seed) for seed in (1, 2)]
            runs[cluster] = [planned.run for planned in plan_runs(cells, targets)]
        wanted = {
            (cluster, dtype): _on_cpu(own, runs[cluster], dtype)
            for cluster, dtype in itertools.product(CLUSTERS, (torch.float64, torch.float32))
        }
        allowed = _allowed(
            (wanted[cluster, torch.float32], wanted[cluster, torch.float64]) for cluster in CLUSTERS
        )
        for (cluster, dtype), weights in wanted.items():
            about = {"rule": rule, "cluster": cluster, "dtype": str(dtype).partition(".")[2]}
            held = functools.partial(_held_to, weights, other, runs[cluster], allowed[dtype])
            yield attempted(about, held)
    yield attempted(
        {"what": f"{sizes.captures} captures after the first"}, lambda: _growth(bench, other)
    )


def _exact_cell(sizes: Sizes, rule: str, cluster: str, seed: int) -> Cell:
    images = {"train_samples": sizes.exact_samples, "test_samples": 1}
    values = {
        "problem": {"name": "lenet5", "dataset": "mnist", **images},
        "rule": RULES[rule],
        **CLUSTERS[cluster],
        **{"batch_size": sizes.exact_batch, "epochs": 2, "seed": seed},
    }
    return parse_cell(values, "benchmarks/gpu")


def _held_to(wanted: torch.Tensor, other: Task, runs: list[Run], allowed: float) -> dict[str, Any]:
    """wanted: weights of the same runs on the CPU, in the precision in which they are held."""
    dtype, backend = wanted.dtype, BatchedBackend(other)
    with not_captured():
        called, _ = _end_of(other, runs, dtype, backend, cuda_graph.advance_captured)
    found, captured = _end_of(other, runs, dtype, backend, cuda_graph.advance_captured)
    error = _distance(found, wanted)
    return {
        "relative error": f"{error:.1e}",
        "allowed": f"{allowed:.1e}",
        "within": error <= allowed,
        "captured": captured,
        "as called": torch.equal(found, called),
    }


def _on_cpu(task: Task, runs: list[Run], dtype: torch.dtype) -> torch.Tensor:
    with torch_threads(1):  # small tensors: more would wait for each other
        return _end_of(task, runs, dtype, in_lockstep(task), replay.advance_in_steps)[0]


def _allowed(
    both: Iterable[tuple[torch.Tensor, torch.Tensor]],
) -> dict[torch.dtype, float]:
    """By precision. both: weights of the same runs on the CPU, in float32 and in float64."""
    rounding = max(_distance(rounded, exact) for rounded, exact in both)
    return {torch.float64: EXACT, torch.float32: ROUNDINGS * rounding}


def _distance(weights: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative to the norm of `exact`."""
    return ((weights.double() - exact).norm() / exact.norm()).item()


def in_lockstep(task: Task) -> VmapBackend:
    """All runs in one vmapped call, on a CPU too."""
    backend = VmapBackend(task)
    backend.runs_at_once = None
    return backend


def _end_of(
    task: Task, runs: list[Run], dtype: torch.dtype, backend: Backend, advance: Callable
) -> tuple[torch.Tensor, bool]:
    """Weights after all epochs, on the CPU; and whether steps were captured."""
    state = replay.start(task, runs, dtype)
    for _ in runs[0].stops:
        state, _ = advance(task, runs, state, backend)
    return state.weights.cpu(), state.step is not None and state.step.captured


def _waits(task: Task, targets: Any) -> dict[str, Any]:
    """Steps of Adam in which PyTorch refuses to wait for the device."""
    cells = [_exact_cell(Sizes(), "adam, warm-up", "parameter_server", seed) for seed in (1, 2)]
    runs = [planned.run for planned in plan_runs(cells, targets)]
    state, backend = replay.start(task, runs), BatchedBackend(task)
    steps = replay.align(runs, 0, task.train[0], fetched=False)
    step = cuda_graph.StaticStep(task, runs, state, backend, steps)
    step.begin(steps)
    step.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"within": True}


def _growth(bench: Bench, task: Task) -> dict[str, Any]:
    """Megabytes that PyTorch reserves more after many captures than after one."""
    runs = _runs_of(bench, task, 2, steps=cuda_graph.WARM_UP + 1)
    reserved = []
    for _ in range(bench.sizes.captures + 1):
        _end_of(task, runs, torch.float32, BatchedBackend(task), cuda_graph.advance_captured)
        free = bench.device.type == "cuda"
        reserved.append(torch.cuda.memory_reserved() / 1e6 if free else 0.0)
    grown = reserved[-1] - reserved[0]
    return {
        "reserved, MB": f"{reserved[-1]:.0f}",
        "grown, MB": f"{grown:.0f}",
        "within": grown < 64,
    }


# ---- (b) samples a second ----


def _runs_of(bench: Bench, task: Task, many: int, steps: int) -> list[Run]:
    """Runs like Figure 2's, two epochs of so many steps: delays, rates and seeds."""
    batch, cells = bench.sizes.batch, []
    delays, rates = (0, 1, 2, 4, 6, 8), [10 ** (-5 + i / 2) for i in range(10)]
    for number in range(many):
        seed, place = divmod(number, len(delays) * len(rates))
        values = {
            "problem": {
                **{"name": "lenet5", "dataset": "mnist"},
                "train_samples": min(batch * steps, bench.sizes.train),
            },
            "rule": {"name": "sgd", "lr": rates[place % len(rates)], "momentum": 0.9},
            "cluster": {"name": "constant_delay", "delay": delays[place // len(rates)]},
            **{"batch_size": batch, "epochs": 2, "seed": seed + 1},
        }
        cells.append(parse_cell(values, "benchmarks/gpu"))
    targets = task.train[1][: cells[0].problem.samples()].cpu().numpy()
    return [planned.run for planned in plan_runs(cells, targets)]


WAYS: dict[str, tuple[Callable[[Task], Backend], bool]] = {
    "vmap": (in_lockstep, False),
    "batched": (BatchedBackend, False),
    "captured": (BatchedBackend, True),
    "captured, TF32": (lambda task: BatchedBackend(task, tf32=True), True),
}


def rates(bench: Bench) -> Iterator[dict[str, Any]]:
    """Training steps, a way at a time for each number of runs; then what the kernels take."""
    task, sizes = bench.task(train_samples=bench.sizes.train, test_samples=1), bench.sizes

    def alone() -> dict[str, Any]:
        contender = plain(task, sizes.batch, 1)
        contender.rate(8, wall=True)
        measured = [contender.rate(_steps(sizes, 8), wall=True) for _ in range(3)]
        return {"samples/s": round(statistics.median(measured)), "times plain": 1.0}

    first = attempted({"way": "plain PyTorch", "runs": 1, "batch": sizes.batch}, alone)
    yield first
    for many in sizes.runs:
        for way in WAYS:
            about = {"way": way, "runs": many, "batch": sizes.batch}
            yield attempted(about, lambda w=way, m=many: _rate(bench, task, w, m, first))
    yield from kernels(bench, task)


def _steps(sizes: Sizes, least: int) -> int:
    return max(least, min(sizes.most_steps, sizes.train // sizes.batch - 10))


def _rate(bench: Bench, task: Task, way: str, many: int, first: dict[str, Any]) -> dict[str, Any]:
    """A short measurement tells how long the one that counts may be."""
    sizes = bench.sizes
    seconds, capture = _second_epoch(bench, task, way, many, 16)
    steps = 16
    if (able := int(sizes.row / max(seconds / steps, 1e-6))) > 2 * steps:
        steps = min(able, _steps(sizes, steps))
        seconds, capture = _second_epoch(bench, task, way, many, steps)
    rate = many * sizes.batch * steps / seconds
    row = {"samples/s": round(rate), "ms a step": round(1e3 * seconds / steps, 3)}
    row["first epoch less the second, s"] = round(capture, 2)
    if "samples/s" in first:
        row["times plain"] = round(rate / first["samples/s"], 1)
    if bench.device.type == "cuda":
        row["peak, GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return row


def _second_epoch(bench: Bench, task: Task, way: str, many: int, steps: int) -> tuple[float, float]:
    """Seconds of an epoch of so many steps, and how much longer the one before it took."""
    made, captured = WAYS[way]
    backend, runs = made(task), _runs_of(bench, task, many, steps)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    state, taken = replay.start(task, runs), []
    advance = cuda_graph.advance_captured if way != "vmap" else replay.advance_in_steps
    with _maybe(captured):
        for _ in range(2):
            bench.synchronize()
            start = time.perf_counter()
            state, _ = advance(task, runs, state, backend)
            bench.synchronize()
            taken.append(time.perf_counter() - start)
    if captured and not (state.step and state.step.captured):
        raise RuntimeError("the step was not captured")
    return taken[1], max(taken[0] - taken[1], 0.0)


@contextmanager
def _maybe(captured: bool) -> Iterator[None]:
    if captured:
        yield
    else:
        with not_captured():
            yield


def kernels(bench: Bench, task: Task) -> Iterator[dict[str, Any]]:
    """The time of a captured epoch by kernel, for the most runs up to 300."""
    from torch.profiler import ProfilerActivity, profile

    many = max(each for each in bench.sizes.runs if each <= 300)
    runs, backend = _runs_of(bench, task, many, 16), BatchedBackend(task)
    state, _ = cuda_graph.advance_captured(task, runs, replay.start(task, runs), backend)
    on_gpu = bench.device.type == "cuda"
    kind = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[kind]) as seen:
        cuda_graph.advance_captured(task, runs, state, backend)
        bench.synchronize()
    of = (lambda e: e.self_device_time_total) if on_gpu else (lambda e: e.self_cpu_time_total)
    events = sorted(seen.key_averages(), key=of, reverse=True)
    whole = sum(map(of, events))
    for event in [each for each in events if of(each) > 0][:15]:
        yield {
            **{"kernel": event.key[:80], "runs": many, "calls": event.count},
            **{"ms": round(of(event) / 1e3, 3), "share": f"{of(event) / whole:.1%}"},
        }


# ---- (c) and (d) Figure 2 ----


def figure2_parts(bench: Bench, seed: int) -> list[list[Cell]]:
    """The cells of Figure 2 with one seed, by minibatch, from the largest, which is quickest."""
    sizes = bench.sizes
    preset = Preset(title="paper", seeds=seed, bundle_size=1)
    grid = study_cells(load_study(STUDY), "paper", preset, "jain2018")["fig2"]
    rates = sorted({cell.rule.lr for cell in grid})[: sizes.rates]
    images = {"train_samples": sizes.train, "test_samples": sizes.test}
    cells = [
        replace(cell, problem=replace(cell.problem, **images), epochs=sizes.epochs)
        for cell in grid
        if cell.seed == seed and cell.rule.lr in rates and cell.batch_size * 5 <= sizes.train
    ]
    batches = sorted({cell.batch_size for cell in cells}, reverse=True)
    return [[cell for cell in cells if cell.batch_size == batch] for batch in batches]


def figure2(bench: Bench) -> Iterator[dict[str, Any]]:
    """Epochs of all runs of one seed, as many as fit; the last row is extrapolated."""
    sizes, parts = bench.sizes, figure2_parts(bench, 1)
    task = bench.task(train_samples=sizes.train, test_samples=sizes.test)
    backend = WAYS["captured"][0](task)
    targets = task.train[1].cpu().numpy()
    planned = [[each.run for each in plan_runs(cells, targets)] for cells in parts]
    states: list[ReplayState] = [replay.start(task, runs) for runs in planned]
    many, epochs = sum(map(len, planned)), []
    for epoch in range(sizes.epochs):
        trained = evaluated = 0.0
        for number, runs in enumerate(planned):
            bench.synchronize()
            start = time.perf_counter()
            states[number], _ = cuda_graph.advance_captured(task, runs, states[number], backend)
            bench.synchronize()
            middle = time.perf_counter()
            backend.metrics(states[number].weights)
            bench.synchronize()
            trained += middle - start
            evaluated += time.perf_counter() - middle
        epochs.append(trained + evaluated)
        yield {
            **{"runs": many, "epoch": str(epoch + 1)},
            **{"training, s": round(trained, 2), "evaluation, s": round(evaluated, 2)},
        }
        if epoch:  # the first one captures
            # The first epoch is counted as it was.
            whole = epochs[0] + (sizes.epochs - 1) * statistics.median(epochs[1:])
            yield {
                **{"runs": many, "epoch": f"all {sizes.epochs}, extrapolated from {epoch + 1}"},
                **{"seconds": round(whole, 1), "runs an hour": round(3600 * many / whole)},
            }


def bundles(bench: Bench) -> Iterator[dict[str, Any]]:
    """Figure 2 at full length with a new seed, a bundle a minibatch, as long as there is time."""
    # Training takes the backend by its name, so that provenance says which it was.
    place = Place(bench.data, bench.device.type, "batched")
    for cells in figure2_parts(bench, SEED):
        bundle = Bundle(tuple(cells))
        output = bench.output / "bundles" / f"{bundle.hash}.csv"
        start = time.perf_counter()
        train_bundle(bundle, output, place)
        seconds = time.perf_counter() - start
        samples = sum(cell.samples() for cell in cells)
        yield {
            **{"bundle": bundle.hash, "runs": len(cells), "batch": cells[0].batch_size},
            **{"seed": SEED, "seconds": round(seconds, 1)},
            "samples/s": round(samples / seconds),
        }


STAGES: dict[str, tuple[str, Callable[[Bench], Iterator[dict[str, Any]]]]] = {
    "exact": ("The same numbers as on the CPU", exactness),
    "rates": ("Samples a second", rates),
    "figure2": ("Figure 2 of jain2018, one seed", figure2),
    "bundles": (f"Bundles of Figure 2, seed {SEED}", bundles),
}


# ---- what it comes to ----


def conclusions(results: Results, bench: Bench) -> list[str]:
    """Sentences, and the row of the table that `auto` on CUDA chooses by."""
    said = []
    held = [row for row in results.rows("exact") if "within" in row]
    wrong = [row for row in results.rows("exact") if row.get("within") is not True]
    apart = [row for row in held if row.get("as called") is False]
    said.append(
        f"{len(held)} comparisons with the CPU, {len(wrong)} of them wrong or not made; "
        f"{len(apart)} differ in a bit between captured and called."
    )
    by_way: dict[str, dict[int, float]] = {}
    for row in results.rows("rates"):
        if "way" in row and "samples/s" in row:
            by_way.setdefault(row["way"], {})[row["runs"]] = row["samples/s"]
    if (row := best_row(by_way, bench)) is not None:
        said.append(f"Row for ON_CARD (training/backends/__init__.py): {row}")
    return said


def best_row(by_way: dict[str, dict[int, float]], bench: Bench) -> str | None:
    """The row of ON_CARD: the faster of the two backends at Figure 2's number of runs; None where
    one of them was not measured."""
    together = {"torch": by_way.get("vmap", {}), "batched": by_way.get("captured", {})}
    both = set(together["torch"]) & set(together["batched"])
    if not both:
        return None
    many = max(each for each in both if each <= max(300, min(both)))
    speeds = {name: found[many] for name, found in together.items()}
    best = max(speeds, key=lambda name: speeds[name])
    on_gpu = bench.device.type == "cuda"
    card = torch.cuda.get_device_name(bench.device) if on_gpu else "no card"
    told = ", ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items())
    now = f"; now {on_card(card)}"
    return f'("{card}*", "{best}"),  # samples/s of {many} runs: {told}{now}'
