"""Steps with given gradients are those of replay, to the bit: kernel and rule apart or in one."""

import numpy as np
import pytest
import torch

from stalegrad import specs
from stalegrad.clusters.hub_and_spoke import HubAndSpoke
from stalegrad.clusters.parameter_server import ParameterServer
from stalegrad.data_order import DataOrder, split
from stalegrad.problems import load_task
from stalegrad.staleness.compute_times import Exponential
from stalegrad.training import replay, stepping
from stalegrad.training.backends import make_backend
from stalegrad.training.given import Server
from stalegrad.training.replay import Run

SEED, BATCH = 3, 16
PROBLEMS = {
    "lenet5": {"dataset": "mnist", "train_samples": 320, "test_samples": 70},
    "large_cnn": {"dataset": "mnist", "train_samples": 320, "test_samples": 70},
    "chain": {"dimension": 37, "epoch_samples": 160},
    "least_squares": {"rows": 160, "dimension": 5, "epoch_samples": 160},
}
RULES = {
    "sgd": {"name": "sgd", "lr": 0.05},
    "nesterov": {"name": "sgd", "lr": 0.02, "momentum": 0.9, "nesterov": True},
    "warm-up": {"name": "sgd", "lr": 0.02, "momentum": 0.9, "warmup_epochs": 1.5},
    "decayed": {"name": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.1},
    "clipped": {"name": "sgd", "lr": 0.02, "momentum": 0.5, "clip_norm": 0.3},
    "Adam": {"name": "adam", "lr": 0.001},
    "compensated": {"name": "dc_asgd", "lr": 0.02, "momentum": 0.9, "compensation": 2.0},
    "adaptive": {"name": "dc_asgd", "lr": 0.02, "compensation": 2.0, "adaptive": True},
    "by delay": {"name": "delay_adaptive", "lr": 0.05, "concurrency": 2},
    "by staleness": {"name": "staleness_scaled", "lr": 0.05, "momentum": 0.5},
    "gap-aware": {"name": "gap_aware", "lr": 0.02, "momentum": 0.9},
    "every third": {"name": "delayed_nesterov", "lr": 0.05, "period": 3, "activation": 0.1},
    "Muon": {"name": "muon", "lr": 0.01, "adam_lr": 0.001},
}
CLUSTERS = {
    "asynchronous": ParameterServer(workers=3, compute_ms=1.0, jitter=0.3),
    "synchronous": ParameterServer(workers=3, compute_ms=1.0, jitter=0.3, synchronous=True),
    "K-batch": HubAndSpoke(workers=3, minibatches_per_update=2, compute_time=Exponential()),
}


def both(problem: str, rule: dict, cluster, backend: str, data, dtype) -> tuple[torch.Tensor, ...]:
    """Final weights of replay, and of a server that is given the same gradients one by one."""
    rule = specs.parse("rules", rule, where="a test", key="rule")
    keys = {"name": problem, **PROBLEMS[problem]}
    spec = specs.parse("problems", keys, where="a test", key="problem")
    task = load_task(spec, data, torch.device("cpu"), dtype)
    backend = make_backend(backend, task)
    targets = task.train[1].numpy()[:96]
    order = DataOrder(split("dataset", targets, 3, SEED), BATCH, SEED)
    schedule = cluster.simulate(order.workload(2), np.random.default_rng(SEED))
    run = Run.plan(rule, schedule, order, SEED)
    state = replay.start(task, [run], dtype)
    start = state.weights[0].clone()
    for _ in range(2):
        state, _ = stepping.advance(task, [run], state, backend)

    per_update = schedule.arrivals_per_update
    server = Server(task, backend, rule, BATCH, per_update, start, start.expand(3, -1).clone())
    versions, factors = {0: start}, run.step_factors
    for i in range(schedule.arrivals):
        worker = int(schedule.worker[i])
        server.sent[worker] = versions[int(schedule.read_version[i])]
        samples = order.indices(schedule.stream[i : i + 1], schedule.batch[i : i + 1])
        noise = run.noise([i], task.noise) if task.noise else None
        gradient, _ = replay.gradient_of_one(
            backend, task, server.sent[worker], torch.from_numpy(samples), noise
        )
        server.apply(worker, gradient, None if factors is None else factors[i])
        versions[server.version] = server.weights.clone()
    assert server.version == schedule.updates
    return state.weights[0], server.weights


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("problem", ["lenet5", "chain", "least_squares"])
def test_kernel_and_given_steps_agree_to_the_bit(problem, rule, cluster, data_folder):
    dtype = torch.float64 if rule == "nesterov" else torch.float32
    replayed, given = both(problem, RULES[rule], CLUSTERS[cluster], "cpu", data_folder, dtype)
    assert torch.isfinite(given).all() and torch.equal(replayed, given)


def test_dropout_is_drawn_by_minibatch(data_folder):
    chosen = RULES["compensated"], CLUSTERS["asynchronous"], "cpu"
    replayed, given = both("large_cnn", *chosen, data_folder, torch.float32)
    assert torch.equal(replayed, given)


@pytest.mark.parametrize("rule", RULES)
def test_steps_by_torch_agree_to_the_bit(rule, data_folder):
    for cluster in CLUSTERS.values():
        replayed, given = both("chain", RULES[rule], cluster, "torch", data_folder, torch.float32)
        assert torch.isfinite(given).all() and torch.equal(replayed, given)
