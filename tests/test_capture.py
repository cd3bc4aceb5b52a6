"""The step that a GPU captures: held to the loop, made of what a graph can hold, and never harmed.

`fake_cuda` captures on a CPU. A capture by CUDA itself is tried by `benchmarks/gpu`.
"""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_cuda import FakeCuda, HostNeeded, NoHost, address, tensors
from helpers import InOrder, make_schedule, plan, quadratic_task, small_cell
from torch.utils._python_dispatch import TorchDispatchMode

from stalegrad.io.datasets import load_dataset
from stalegrad.planning.bundle import Bundle
from stalegrad.rules.adam import Adam
from stalegrad.rules.dc_asgd import DelayCompensation
from stalegrad.rules.delay_adaptive import DelayAdaptive
from stalegrad.rules.delayed_nesterov import DelayedNesterov
from stalegrad.rules.gap_aware import GapAware
from stalegrad.rules.muon import Muon
from stalegrad.rules.sgd import SGD
from stalegrad.training import cuda_graph, replay
from stalegrad.training.backends.batched import BatchedBackend
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.bundles import Place, plan_runs, train_bundle

ARRIVALS = 24
RULES = {
    "sgd": lambda lr: SGD(lr=lr, momentum=0.5),
    "adam": lambda lr: Adam(lr=lr),
    "dc_asgd": lambda lr: DelayCompensation(lr=lr, compensation=0.5, adaptive=True, clip_norm=2.0),
    "delay_adaptive": lambda lr: DelayAdaptive(lr=lr, concurrency=2, warmup_epochs=1.0),
    "gap_aware": lambda lr: GapAware(lr=lr, momentum=0.5),
    "delayed_nesterov": lambda lr: DelayedNesterov(lr=lr, period=3, activation=0.2),
    "muon": lambda lr: Muon(lr=lr, adam_lr=lr / 2, warmup_epochs=1.0),
}


@pytest.fixture
def cuda(monkeypatch) -> FakeCuda:
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


def in_lockstep(task, static: bool = False) -> VmapBackend:
    """All runs in one vmapped call, as on a GPU."""
    backend = VmapBackend(task)
    backend.runs_at_once, backend.static = None, static
    return backend


def problem(seed: int = 0):
    rng = np.random.default_rng(seed)
    return quadratic_task(rng.uniform(0.5, 1.5, ARRIVALS).tolist(), lambda s: [1.0 + s, -2.0])


def runs_of(rule, per_update: int = 1, seed: int = 0, ends: int = 2, many: int = 4) -> list:
    """Any schedules, and ragged epochs: from run to run fewer arrivals in each but the last, so
    that those start later."""
    rng, runs = np.random.default_rng(seed), []
    for run in range(many):
        versions = np.arange(ARRIVALS) // per_update
        read = rng.integers(np.maximum(versions - 4, 0), versions + 1)
        first = 9 - run
        stops = [round(first * (i + 1) / (ends - 1)) for i in range(ends - 1)] + [ARRIVALS]
        schedule = make_schedule(read, stops, per_update)
        runs.append(plan(rule(0.1 * (1 + run)), schedule, InOrder(), seed=run))
    return runs


def advanced(task, runs, backend, advance, epochs: int = 2) -> list[dict]:
    """Losses and state, cloned, after each epoch."""
    state, seen = replay.start(task, runs, torch.float64), []
    for _ in range(epochs):
        state, losses = advance(task, runs, state, backend)
        state_now = {name: value.clone() for name, value in state.tensors().items()}
        seen.append({"losses": losses.clone(), **state_now})
    return seen


def assert_same(one: list[dict], other: list[dict]) -> None:
    for epoch, (wanted, found) in enumerate(zip(one, other, strict=True)):
        for name, value in wanted.items():
            assert torch.equal(value, found[name]), f"{name} after epoch {epoch}"


def in_loop(task, runs, epochs: int = 2) -> list[dict]:
    return advanced(task, runs, in_lockstep(task), replay.advance_in_steps, epochs)


def as_step(task, runs, epochs: int = 2) -> list[dict]:
    return advanced(task, runs, in_lockstep(task, True), cuda_graph.advance_captured, epochs)


# ---- the same numbers ----


@pytest.mark.parametrize("captured", [False, True], ids=["called", "captured"])
@pytest.mark.parametrize("per_update", [1, 3])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("seed", range(3))
def test_the_static_step_is_the_step_of_the_loop(rule, per_update, seed, captured, monkeypatch):
    """To the byte, in all of weights and state."""
    fake = FakeCuda()
    if captured:
        fake.install(monkeypatch)
    task, runs = problem(seed), runs_of(rule, per_update, seed)
    assert_same(in_loop(task, runs), as_step(task, runs))
    assert len(fake.steps) == captured


class Counted(SGD):
    """Steps that shrink by a count that Python keeps, as torch.optim.Adam's once did."""

    done = 0

    @staticmethod
    def update(gradient, weights, state, numbers):
        Counted.done += 1
        return weights - gradient * (numbers["lr"] / Counted.done), state


def test_a_count_of_python_is_frozen_and_one_in_a_tensor_is_not(cuda):
    """What pytorch#76368 reports is seen by these tests; Adam's decays are tensors."""
    task = problem()
    Counted.done = 0
    wanted = in_loop(task, runs_of(lambda lr: Counted(lr=lr)))
    Counted.done = 0
    found = as_step(task, runs_of(lambda lr: Counted(lr=lr)))
    assert not torch.equal(wanted[-1]["weights"], found[-1]["weights"])
    state = Adam.init(torch.zeros(2, 3))
    assert {name for name, value in state.items() if isinstance(value, torch.Tensor)} == {*state}


# ---- one graph ----


def test_a_graph_is_kept_over_epochs_and_warmed_up_once(cuda):
    task, runs = problem(), runs_of(RULES["adam"], ends=6)
    assert_same(in_loop(task, runs, 6), as_step(task, runs, 6))
    (graph,) = cuda.steps
    lengths = [np.diff(run.stops, prepend=0) for run in runs]
    assert graph.replays == np.max(lengths, axis=0).sum() - cuda_graph.WARM_UP


def test_masks_are_for_epochs_in_which_runs_start_later(cuda):
    """With a delay that is the first one alone; the others share a graph that has none."""
    reads = [[max(i - delay, 0) for i in range(ARRIVALS)] for delay in (0, 2)]
    ends = [[12, 16, 20, 24], [10, 14, 18, 22]]
    task = problem()
    runs = [
        plan(Adam(lr=0.1), make_schedule(read[: end[-1]], end), InOrder())
        for read, end in zip(reads, ends, strict=True)
    ]
    assert_same(in_loop(task, runs, 4), as_step(task, runs, 4))

    assert [graph.replays for graph in cuda.steps] == [12 - cuda_graph.WARM_UP, 12 - 3]


def test_short_epochs_are_warmed_up_over_several(cuda):
    task = problem()
    runs = [plan(SGD(lr=0.1), make_schedule([*range(ARRIVALS)]), InOrder())]
    assert_same(in_loop(task, runs, 5), as_step(task, runs, 5))
    assert [graph.replays for graph in cuda.steps] == [5 - cuda_graph.WARM_UP]


def test_all_captures_have_one_stream_and_one_pool(cuda):
    for name in ("sgd", "adam", "dc_asgd"):
        as_step(problem(), runs_of(RULES[name]))
    assert len(cuda.steps) == 3 and len(cuda.graphs) == 4  # and the one that keeps the pool
    assert {*map(id, cuda.pools)} == {id(cuda.pool)} and len({*map(id, cuda.streams)}) == 1


def test_runs_that_leave_have_a_graph_of_their_own(cuda):
    task, runs = problem(), runs_of(RULES["sgd"], ends=3)
    wanted, found = [], []
    for backend, advance, seen in (
        (in_lockstep(task), replay.advance_in_steps, wanted),
        (in_lockstep(task, True), cuda_graph.advance_captured, found),
    ):
        state = replay.start(task, runs, torch.float64)
        state, _ = advance(task, runs, state, backend)
        state = state.keep([0, 2])
        for _ in range(2):
            state, losses = advance(task, [runs[0], runs[2]], state, backend)
            seen.append({"losses": losses, **{k: v.clone() for k, v in state.tensors().items()}})
    assert_same(wanted, found)
    assert len(cuda.steps) == 2
    assert state.step is not None and state.keep([]).step is None  # so that its memory is freed


@pytest.mark.parametrize("what", ["task", "runs", "backend", "weights"])
def test_a_step_takes_nothing_but_its_own(what):
    task, runs = problem(), runs_of(RULES["adam"], ends=3)
    backend = in_lockstep(task, True)
    state, _ = cuda_graph.advance_captured(task, runs, replay.start(task, runs), backend)
    steps = replay.align(runs, 1, task.train[0], fetched=False)
    own = {"task": task, "runs": runs, "state": state, "backend": backend}
    assert state.step.can_take(**own, steps=steps)
    other = {
        "task": {"task": problem()},
        "runs": {"runs": [replace(runs[0]), *runs[1:]]},
        "backend": {"backend": in_lockstep(task, True)},
        "weights": {"state": replace(state, weights=state.weights.clone())},
    }[what]
    assert not state.step.can_take(**own | other, steps=steps)


def test_graphs_are_destroyed_together_once_none_is_in_use(cuda):
    """Where one of a stream is destroyed, the others lose the workspace of cuBLAS."""
    task = problem()
    backend = in_lockstep(task, True)

    def begun(rule):
        runs = runs_of(rule)
        state, _ = cuda_graph.advance_captured(task, runs, replay.start(task, runs), backend)
        return state

    first, second = begun(RULES["sgd"]), begun(RULES["adam"])
    graphs = [weakref.ref(graph) for graph in cuda.steps]
    cuda.graphs.clear()
    del first
    third = begun(RULES["sgd"])
    assert all(graph() for graph in graphs) and second.step.captured and third.step.captured
    cuda.graphs.clear()
    del second, third
    gc.collect()
    begun(RULES["sgd"])
    assert not any(graph() for graph in graphs)


class Watched(TorchDispatchMode):
    """Remembers the memory of all that is made."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        known = {address(tensor) for tensor in tensors(args, kwargs)}
        self.made += [weakref.ref(t) for t in tensors(out) if address(t) not in known]
        return out


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_nothing_made_in_a_step_outlives_it(rule):
    """So that graphs may share a pool, in whatever order they are replayed."""
    task, runs = problem(), runs_of(rule, per_update=2)
    backend = in_lockstep(task, True)
    state, _ = cuda_graph.advance_captured(task, runs, replay.start(task, runs), backend)
    with Watched() as watched:
        state.step.begin(replay.align(runs, 1, task.train[0], fetched=False))
        watched.made.clear()
        state.step.step()
    gc.collect()
    assert len(watched.made) > 10 and not [made for made in watched.made if made() is not None]


# ---- a capture that fails ----


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_capture_that_fails_changes_no_number_and_is_told_once(rule, cuda, capsys):
    cuda.fails = RuntimeError("operation not permitted when stream is capturing\nmore of it")
    task, runs = problem(), runs_of(rule, per_update=3)
    assert_same(in_loop(task, runs), as_step(task, runs))
    assert_same(in_loop(task, runs), as_step(task, runs))
    said = capsys.readouterr().err
    assert said.count("note: a step cannot be captured as a CUDA graph") == 1
    assert "(operation not permitted when stream is capturing). It is called as it is" in said
    assert not cuda.steps and len(cuda.streams) == 3  # the empty graph, and one try each


class Reading(SGD):
    """A rule that asks the device for a number in the middle of a step."""

    @staticmethod
    def update(gradient, weights, state, numbers):
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("CUDA error: a rule reads a number")
        return SGD.update(gradient, weights, state, numbers)


def test_a_step_that_stops_in_the_middle_of_its_capture_changes_no_number(
    cuda, capsys, monkeypatch
):
    task = problem()
    wanted = in_loop(task, runs_of(RULES["sgd"]))
    capturing = cuda.capture
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    runs = runs_of(lambda lr: Reading(lr=lr, momentum=0.5))
    with pytest.raises(RuntimeError, match="a rule reads"):
        as_step(task, runs)  # in warm-up it is an error like any other
    flag = []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: bool(flag))

    def flagged(*arguments, **keywords):
        flag.append(True)
        return capturing(*arguments, **keywords)

    monkeypatch.setattr(torch.cuda, "graph", flagged)
    monkeypatch.setattr(cuda_graph.Recorder, "_tell", _unflagging(flag, cuda_graph.Recorder._tell))
    assert_same(wanted, as_step(task, runs))
    assert "(CUDA error: a rule reads a number)" in capsys.readouterr().err


def _unflagging(flag, tell):
    def told(*arguments):
        flag.clear()
        tell(*arguments)

    return told


# ---- the stream ----


def test_work_on_the_stream_is_in_order_with_all_other(monkeypatch):
    fake = FakeCuda()
    outside = fake.stream(None)
    fake.log.append("")
    entered = []

    class Entered:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            entered.append(self.stream)

        def __exit__(self, *_):
            entered.pop()

    monkeypatch.setattr(torch.cuda, "Stream", fake.stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: outside)
    monkeypatch.setattr(torch.cuda, "stream", Entered)
    cuda_graph._recorder.cache_clear()
    try:
        with cuda_graph._on_stream(torch.device("cuda", 0)) as recorder:
            assert entered == [recorder.stream]
        with cuda_graph._on_stream(torch.device("cuda", 0)) as again:
            assert again is recorder
    finally:
        cuda_graph._recorder.cache_clear()
    assert not entered
    own, other = recorder.stream.name, outside.name
    round_trip = [f"{own} waits for {other}", f"{other} waits for {own}", f"{own} is done"]
    assert fake.log[1:] == 2 * round_trip


def test_a_cpu_has_no_stream():
    with cuda_graph._on_stream(torch.device("cpu")) as recorder:
        assert recorder is None


# ---- nothing that needs the host ----

CLUSTERS = {
    "constant_delay": {"cluster": {"name": "constant_delay", "delay": 3}},
    "ramp": {"cluster": {"name": "constant_delay", "delay": 3, "ramp_epochs": 1.0}},
    "hub_and_spoke": {
        "cluster": {"name": "hub_and_spoke", "workers": 3, "compute_time": {"name": "expon"}}
    },
    "parameter_server": {
        "cluster": {"name": "parameter_server", "workers": 2, "compute_ms": 5.0},
        "partition": "labels_uncut",
    },
    "synchronous": {
        "cluster": {
            **{"name": "parameter_server", "workers": 2, "compute_ms": 5.0, "synchronous": True}
        },
        "partition": "dataset",
    },
}
CELL_RULES = {
    "sgd": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
    "nesterov": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True, "clip_norm": 1.0},
    "decayed": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    "adam": {"name": "adam", "lr": 0.001, "warmup_epochs": 1.0},
    "dc_asgd": {"name": "dc_asgd", "lr": 0.01, "compensation": 2.0, "adaptive": True},
    "delay_adaptive": {"name": "delay_adaptive", "lr": 0.01, "concurrency": 2},
    "gap_aware": {"name": "gap_aware", "lr": 0.02, "momentum": 0.9},
    "delayed_nesterov": {"name": "delayed_nesterov", "lr": 0.05, "period": 3},
    "muon": {"name": "muon", "lr": 0.01, "adam_lr": 0.001},
}


def prepared(data_folder, device: str, **changes):
    """LeNet-5 on a device (`meta` holds shapes and no numbers), and two runs of it."""
    cells = [small_cell(**changes, seed=seed) for seed in (1, 2)]
    data = load_dataset("mnist", data_folder)
    planned = plan_runs(cells, data.train_labels[:160])
    return cells[0].problem.on(data, torch.device(device)), [each.run for each in planned]


def steps_without_host(task, runs) -> None:
    """Two steps in which nothing may need the host."""
    backend, state = BatchedBackend(task), replay.start(task, runs)
    steps = replay.align(runs, 0, task.train[0], fetched=False)
    step = cuda_graph.StaticStep(task, runs, state, backend, steps)
    step.begin(steps)
    with NoHost():
        step.step()
        step.step()


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
@pytest.mark.parametrize("rule", CELL_RULES.values(), ids=CELL_RULES)
def test_no_step_needs_the_host(rule, cluster, device, data_folder):
    steps_without_host(*prepared(data_folder, device, rule=rule, **cluster))


NEEDING = {
    "item": lambda g: g * g.sum().item(),
    "bool": lambda g: g if g.sum() > 0 else -g,
    "nonzero": lambda g: g + g.nonzero().numel(),
    "mask": lambda g: g - g[g > 0].sum(),
    "assigned": lambda g: g.clone().index_put_((g > 0,), g.new_zeros(())),
    "to the host": lambda g: g.cpu().to(g.device),
    "from the host": lambda g: g * torch.ones(len(g), 1).to(g.device),
    "a number from the host": lambda g: g * torch.ones(()).to(g.device),
    "made of numbers": lambda g: g * torch.tensor([[2.0]], device=g.device),
    "repeated": lambda g: g.repeat_interleave(g.new_ones(len(g), dtype=torch.int64), dim=0),
}


@pytest.mark.parametrize("need", NEEDING.values(), ids=NEEDING)
def test_what_needs_the_host_is_found(need, data_folder, monkeypatch):
    """A rule that does it fails the test above on one of the two devices."""

    def update(gradient, weights, state, numbers):
        return weights - need(gradient), state

    monkeypatch.setattr(SGD, "update", staticmethod(update))
    # PyTorch refuses by itself to read what `meta` does not hold.
    with pytest.raises((HostNeeded, RuntimeError, NotImplementedError)):
        for device in ("cpu", "meta"):
            steps_without_host(*prepared(data_folder, device))


# ---- minibatches that runs share ----


def step_of(cells, data_folder):
    """The step of these runs, with the samples and shapes of its table, and its task."""
    data = load_dataset("mnist", data_folder)
    runs = [each.run for each in plan_runs(cells, data.train_labels[:160])]
    task = cells[0].problem.on(data, torch.device("cpu"))
    state, backend = replay.start(task, runs, torch.float64), BatchedBackend(task)
    return task, runs, cuda_graph.advance_captured(task, runs, state, backend)


@pytest.mark.parametrize(
    "seeds, minibatches", [((1, 1, 1, 1), 1), ((1, 1, 2, 2), 2), ((1, 1, 1, 2), 4), ((1, 2), 2)]
)
def test_runs_that_share_a_minibatch_have_it_once(seeds, minibatches, data_folder, monkeypatch):
    """Where the groups are alike in size, so that each layer stays one batch of products."""
    monkeypatch.setattr(replay, "_WORTH_A_CALL", 1)
    cells = [
        small_cell(seed=seed, rule__lr=0.01 * (1 + number)) for number, seed in enumerate(seeds)
    ]
    task, runs, (state, losses) = step_of(cells, data_folder)
    assert state.step._samples.shape[1] == minibatches
    wanted, own = replay.advance_in_steps(
        task, runs, replay.start(task, runs, torch.float64), in_lockstep(task)
    )
    torch.testing.assert_close(state.weights, wanted.weights, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(losses, own, rtol=1e-12, atol=0)


# ---- whole bundles ----


def test_a_bundle_is_the_same_captured_and_not(cuda, tmp_path, data_folder, monkeypatch):
    """Runs that diverge and runs of several kinds, and a graph for each part that lasts."""
    cells = tuple(
        small_cell(**changes)
        for changes in (
            {"seed": 1},
            {"seed": 2, "rule__lr": 0.01, "cluster__delay": 0},
            {"seed": 1, "rule__lr": 1e6},
            {"seed": 3, "rule": CELL_RULES["adam"], "cluster__delay": 2},
        )
    )
    written = {}
    for name in ("captured", "called"):
        if name == "called":
            monkeypatch.setattr(cuda_graph.StaticStep, "take", lambda self, recorder: self.step())
        output = tmp_path / f"{name}.csv"
        train_bundle(Bundle(cells), output, Place(data_folder, "cpu", "batched"))
        written[name] = output.read_bytes()
    assert written["captured"] == written["called"]
    assert b"True" in written["captured"] and len(cuda.steps) == 3
