"""A PyTorch module and data of one's own as a problem: held to a plain PyTorch loop in float64."""

import copy
import pickle
from collections import deque
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_close, epoch_an_arrival, plan, trajectory
from sklearn.datasets import load_digits
from torch import nn

from stalegrad.clusters.constant_delay import ConstantDelay
from stalegrad.data_order import DataOrder
from stalegrad.io.datasets import CIFAR10_FOLDER, CIFAR10_TEST, CIFAR10_TRAIN, load_cifar10
from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import Cell
from stalegrad.problems import load_task
from stalegrad.problems._module import module_problem
from stalegrad.rules.adam import Adam
from stalegrad.rules.sgd import SGD
from stalegrad.schedule import Workload
from stalegrad.training.backends import make_backend
from stalegrad.training.bundles import Place, train_bundle

CPU = torch.device("cpu")
DELAY, BATCH, STEPS = 2, 16, 9


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))


class Colours(nn.Module):
    """A small convolutional network for 32 x 32 colour images, with a constant of its own."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.GroupNorm(2, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Linear(width * 16, 3)
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1))

    def forward(self, x):
        x = nn.functional.max_pool2d(self.norm(self.first(x - self.mean)).relu(), 4)
        return self.out(nn.functional.max_pool2d(self.second(x).relu(), 2).flatten(1))


def digits(dtype=np.float32):
    """scikit-learn's 8 x 8 digits: training and test part."""
    inputs, labels = load_digits(return_X_y=True)
    inputs = (inputs / 16).astype(dtype)
    return (inputs[:320], labels[:320]), (inputs[320:400], labels[320:400])


def coloured(count: int, seed: int):
    """Images of three classes, each bright in one colour, as bytes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    images = rng.integers(128, size=(count, 3, 32, 32), dtype=np.uint8)
    images[np.arange(count), labels] += 96
    return images, labels


def run_of(problem, rule, seed=1):
    order = DataOrder((np.arange(problem.samples()),), BATCH, seed)
    schedule = ConstantDelay(delay=DELAY).simulate(Workload((STEPS,), 1), np.random.default_rng(0))
    return plan(rule, epoch_an_arrival(schedule), order, seed)


def by_hand(make, start, optimizer, data, order, loss):
    """Flat weights after each update of a PyTorch optimizer whose gradients wait DELAY steps."""
    module = make().double()
    nn.utils.vector_to_parameters(start.clone(), module.parameters())
    stepped, waiting = optimizer(module.parameters()), deque()
    for step in range(STEPS):
        batch = order.indices(np.array([0]), np.array([step]))[0]
        inputs, targets = (torch.as_tensor(part)[batch] for part in data)
        inputs = inputs.double() / 255 if inputs.dtype == torch.uint8 else inputs.double()
        value = loss(module(inputs), targets)
        waiting.append(torch.autograd.grad(value, list(module.parameters())))
        if len(waiting) > DELAY:
            for parameter, gradient in zip(module.parameters(), waiting.popleft(), strict=True):
                parameter.grad = gradient
            stepped.step()
            yield nn.utils.parameters_to_vector(module.parameters()).detach().clone()


CASES = {
    "digits": (perceptron, digits(), None),
    "colours": (Colours, (coloured(160, 1), coloured(40, 2)), None),
    "regression": (
        lambda: nn.Linear(64, 1),
        ((digits()[0][0], digits()[0][0][:, :1] * 3), (digits()[1][0], digits()[1][0][:, :1])),
        None,
    ),
    "smoothed": (perceptron, digits(), nn.CrossEntropyLoss(label_smoothing=0.1)),
}
RULES = {
    "sgd": (
        SGD(lr=0.1, momentum=0.9, nesterov=True),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "adam": (Adam(lr=0.01), partial(torch.optim.Adam, lr=0.01)),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", CASES)
def test_training_is_a_plain_pytorch_loop(case, rule):
    make, (train, test), loss = CASES[case]
    problem = module_problem(make, train, test, loss=loss)
    task = load_task(problem, None, CPU, torch.float64)
    ours, optimizer = RULES[rule]
    runs = [run_of(problem, ours, seed) for seed in (1, 2)]
    found, _ = trajectory(task, runs, make_backend("auto", task))
    labelled = np.issubdtype(np.asarray(train[1]).dtype, np.integer)
    usual = nn.functional.cross_entropy if labelled else nn.functional.mse_loss
    for row, run in enumerate(runs):
        start = task.initial_weights(run.seed)
        data = train[0], train[1] if labelled else train[1].astype(float)
        wanted = list(by_hand(make, start, optimizer, data, run.order, loss or usual))
        assert len(wanted) == len(found) == STEPS - DELAY
        for weights, each in zip(found, wanted, strict=True):
            assert_close(weights[row], each, 1e-11)
        assert (found[-1][row] - start).norm() > 0.01
    assert not torch.equal(found[0][0], found[0][1])


def test_metrics_are_those_of_the_module_in_evaluation():
    train, test = coloured(160, 1), coloured(40, 2)
    task = load_task(module_problem(Colours, train, test), None, CPU, torch.float64)
    weights = torch.stack([task.initial_weights(seed) for seed in (1, 2)])
    found = make_backend("torch", task).metrics(weights)
    for row, each in enumerate(weights):
        module = Colours().double().eval()
        nn.utils.vector_to_parameters(each, module.parameters())
        outputs = module(torch.from_numpy(test[0]).double() / 255)
        labels = torch.from_numpy(test[1])
        loss = nn.functional.cross_entropy(outputs, labels).item()
        assert found["test_loss"][row].item() == pytest.approx(loss, rel=1e-12)
        accuracy = (outputs.argmax(1) == labels).double().mean().item()
        assert found["test_accuracy"][row].item() == pytest.approx(accuracy, rel=1e-12)


class ByMode(nn.Linear):
    """Ten times as much in training."""

    def forward(self, x):
        return super().forward(x) * (10 if self.training else 1)


def test_layers_are_told_whether_they_are_trained():
    problem = module_problem(partial(ByMode, 64, 10), *digits())
    task = load_task(problem, None, CPU, torch.float64)
    weights, (inputs, targets) = task.initial_weights(1), task.test
    evaluated = task.metrics(weights, inputs, targets)["test_loss"]
    plain = inputs @ weights[:640].view(10, 64).T + weights[640:]
    assert evaluated.item() == pytest.approx(nn.functional.cross_entropy(plain, targets).item())
    trained = nn.functional.cross_entropy(10 * plain, targets).item()
    assert task.loss(weights, inputs, targets).item() == pytest.approx(trained)


def test_initial_weights_are_pytorchs_and_follow_from_the_seed():
    task = load_task(module_problem(perceptron, *digits()), None, CPU, torch.float32)
    torch.manual_seed(8)
    before = torch.random.get_rng_state()
    one, two, again = (task.initial_weights(seed) for seed in (1, 2, 1))
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's own is left alone
    assert torch.equal(one, again) and not torch.equal(one, two)
    assert one.dtype == torch.float64 and one.abs().max() <= 1 / 16**0.5
    assert task.layers == ((16, 64), (16,), (10, 16), (10,))


def test_a_torch_seed_gives_the_weights_of_a_plain_construction():
    problem = module_problem(perceptron, *digits(), torch_seed=614310)
    task = load_task(problem, None, CPU, torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(614310)
        wanted = nn.utils.parameters_to_vector(perceptron().parameters()).detach()
    for seed in (1, 2):
        assert torch.equal(task.initial_weights(seed).float(), wanted)
    own = module_problem(perceptron, *digits())
    assert own != problem
    assert own == module_problem(perceptron, *digits(), torch_seed=None)


@pytest.mark.parametrize("torch_seed", [-1, 1.5, True, (1, 2)])
def test_a_torch_seed_that_is_none_is_refused(torch_seed):
    with pytest.raises(ConfigError, match="^module_problem: 'torch_seed' is "):
        module_problem(perceptron, *digits(), torch_seed=torch_seed)


def test_shared_weights_are_one_and_frozen_ones_stay():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
            self.outer.weight = self.inner.weight
            self.scale = nn.Parameter(torch.tensor(2.0), requires_grad=False)

        def forward(self, x):
            return self.scale * self.outer(self.inner(x).tanh())

    problem = module_problem(Tied, *digits())
    assert problem.parameters() == 64 * 64
    task = load_task(problem, None, CPU, torch.float64)
    weights, (inputs, targets) = task.initial_weights(1), task.test
    matrix = weights.view(64, 64)
    outputs = 2 * (inputs @ matrix.T).tanh() @ matrix.T
    wanted = nn.functional.cross_entropy(outputs, targets).item()
    assert task.loss(weights, inputs, targets).item() == pytest.approx(wanted)


# ---- what it is known by ----


def content(make=perceptron, data=None, **keys) -> str:
    return module_problem(make, *(data or digits()), **keys).content


def test_the_content_changes_with_all_that_decides_a_result():
    def changed(row, value):
        train, test = copy.deepcopy(digits())
        (train if row >= 0 else test)[0][row, 0] = value
        return train, test

    def relabelled():
        train, test = copy.deepcopy(digits())
        train[1][0] += 1
        return train, test

    def started(gain):
        def make():
            module = perceptron()
            nn.init.orthogonal_(module[0].weight, gain)
            return module

        return make

    def weighed(weight):
        return lambda outputs, targets: weight * nn.functional.cross_entropy(outputs, targets)

    found = [
        content(),
        content(data=changed(0, 9.0)),
        content(data=changed(-1, 9.0)),
        content(data=relabelled()),
        content(data=digits(np.float64)),
        content(lambda: nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))),
        content(lambda: nn.Sequential(nn.Linear(64, 16), nn.ELU(0.5), nn.Linear(16, 10))),
        content(lambda: nn.Sequential(nn.Linear(64, 16), nn.ELU(0.6), nn.Linear(16, 10))),
        content(started(1.0)),
        content(started(2.0)),
        content(loss=weighed(1.0)),
        content(loss=weighed(2.0)),
        content(loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
        content(loss=nn.CrossEntropyLoss(label_smoothing=0.2)),
    ]
    assert len(set(found)) == len(found)
    assert content() == found[0]


def test_equal_problems_are_equal_and_have_one_hash():
    def cell(problem):
        return Cell(problem=problem, rule=SGD(lr=0.1), cluster=ConstantDelay(delay=1),
                    batch_size=16, epochs=1)  # fmt: skip

    one, same, other = (module_problem(m, *digits()) for m in (perceptron, perceptron, Digits))
    assert one == same and hash(one) == hash(same) and one != other
    assert cell(one).hash == cell(same).hash != cell(other).hash
    assert cell(one).columns()["network"] == "Sequential"
    assert "parts" not in cell(one).columns()


class Digits(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(64, 10))


def test_the_data_are_a_copy():
    train, test = digits()
    problem = module_problem(perceptron, train, test)
    train[0][:] = 0
    assert load_task(problem, None, CPU, torch.float64).train[0].abs().max() > 0


# ---- data sets ----


class Pictures:
    """Laid out like torchvision's: pairs of a picture and a label, by number."""

    def __init__(self, transform):
        self.pairs, self.transform = [*zip(*coloured(20, 3), strict=True)], transform

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, number):
        image, label = self.pairs[number]
        return self.transform(image), int(label)


def as_picture(image):
    """What torchvision gives without a transform."""
    from PIL import Image

    return Image.fromarray(image.transpose(1, 2, 0))


@pytest.mark.parametrize("transform", [torch.from_numpy, as_picture, np.asarray])
def test_a_data_set_of_pairs_is_stacked(transform):
    problem = module_problem(Colours, Pictures(transform), Pictures(transform))
    images, labels = coloured(20, 3)
    assert torch.equal(problem.parts.train[0], torch.from_numpy(images))
    assert problem.parts.train[1].tolist() == labels.tolist()
    assert problem.content == module_problem(Colours, *2 * [(images, labels)]).content


def test_a_local_cifar10_is_a_problem_in_three_lines(tmp_path):
    (place := tmp_path / CIFAR10_FOLDER).mkdir()
    for seed, name in enumerate((*CIFAR10_TRAIN, *CIFAR10_TEST)):
        images, labels = coloured(16, seed)
        content = {"data": images.reshape(16, -1), "labels": labels.tolist()}
        (place / name).write_bytes(pickle.dumps(content, 4))
    data = load_cifar10(tmp_path)
    problem = module_problem(Colours, data.train, data.test)
    assert (problem.samples(), problem.classes(), problem.test_samples) == (80, 3, 16)
    assert load_task(problem, tmp_path, CPU, torch.float32).train[0].dtype == torch.uint8


def test_threads_do_not_share_a_module(tmp_path):
    """A module holds the weights that it is called with while it is called."""
    problem = module_problem(Colours, coloured(160, 1), coloured(40, 2))
    cells = tuple(
        Cell(problem=problem, rule=SGD(lr=0.1), cluster=ConstantDelay(delay=delay),
             batch_size=size, epochs=2, seed=seed)
        for delay in (0, 2) for size in (16, 20, 32) for seed in (1, 2)
    )  # fmt: skip
    for threads in (1, 4):
        place = Place(tmp_path, "cpu", "torch", threads)
        train_bundle(Bundle(cells), tmp_path / f"{threads}.csv", place)
    one, four = ((tmp_path / f"{threads}.csv").read_bytes() for threads in (1, 4))
    assert one == four
    history = pd.read_csv(tmp_path / "1.csv")
    assert history["train_loss"].nunique() == 24 and history["test_accuracy"].max() > 0.5


# ---- what is refused ----


def with_layer(layer):
    return lambda: nn.Sequential(nn.Linear(64, 16), layer, nn.Linear(16, 10))


class Random(nn.Linear):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


class Counting(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("calls", torch.tensor(0.0))

    def forward(self, x):
        self.calls = self.calls + 1
        return super().forward(x)


class Branching(nn.Linear):
    def forward(self, x):
        return super().forward(x) if self.weight.sum() > 0 else x


class FromNumpy(nn.Linear):
    def __init__(self):
        super().__init__(64, 10)
        with torch.no_grad():
            self.weight += torch.from_numpy(np.random.rand(10, 64))


class RandomConstant(nn.Linear):
    def __init__(self):
        super().__init__(64, 10)
        self.bias.requires_grad_(False)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (with_layer(nn.BatchNorm1d(16)), r"'1' \(BatchNorm1d.* is batch normalisation.*GroupNorm"),
        (with_layer(nn.BatchNorm1d(16, track_running_stats=False)), "is batch normalisation"),
        (with_layer(nn.InstanceNorm1d(1, track_running_stats=True)), "'1'.* changes its buffers"),
        (with_layer(nn.Dropout(0.5)), r"the layer '1' \(Dropout\(p=0.5.* is dropout.* set its p"),
        (lambda: Random(64, 10), "Random cannot be differentiated: it draws random numbers"),
        (lambda: Counting(64, 10), "training changes the buffer 'calls', and only weights"),
        (lambda: Branching(64, 10), "Branching cannot be differentiated: .*vmap"),
        (FromNumpy, "the parameter 'weight' does not follow from the seed"),
        (RandomConstant, "'bias' is not trained, yet other with every seed"),
        (lambda: nn.Linear(63, 10), "Linear cannot be differentiated: mat1 and mat2"),
        (lambda: nn.Linear(64, 9), r"makes \(2, 9\) of two samples; .* each of the 10 classes"),
        (lambda: nn.Flatten(), "Flatten has no parameter that is trained"),
        (lambda: 1, "'make' returned a int; it must return a torch.nn.Module"),
    ],
)
def test_a_module_that_cannot_be_trained_is_refused_by_name(make, said):
    with pytest.raises(ConfigError, match=f"^module_problem: .*(?:{said})"):
        module_problem(make, *digits())


def test_dropout_without_effect_is_none():
    assert module_problem(with_layer(nn.Dropout(0.0)), *digits()).parameters() == 1210


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ((np.zeros((3, 64)), [0, 1]), r"inputs \(3, 64\) and targets \(2,\)"),
        ((np.zeros((0, 64)), []), "at least one of both"),
        (1, "'train' is a int; it must be inputs and targets, or a data set"),
        ([], "'train' is an empty data set"),
        ((np.zeros((2, 64)), [0, -1]), "the label -1 is less than 0"),
        ((np.zeros((2, 64)), ["a", "b"]), "'train' holds what is no array of numbers"),
        ([(np.zeros(64), 0), (np.zeros(63), 1), (np.zeros(64), 1)], "of 'train' cannot be stacked"),
        ((np.zeros((2, 64)), [0.0, 1.0]), r"makes \(2, 10\) of two samples, whose targets are"),
    ],
)
def test_data_that_are_none_are_refused(data, said):
    with pytest.raises(ConfigError, match=f"^module_problem: .*{said}"):
        module_problem(perceptron, data, digits()[1])


def test_a_loss_that_is_no_mean_is_refused():
    each = partial(nn.functional.cross_entropy, reduction="none")
    with pytest.raises(ConfigError, match="cannot be differentiated|the loss has the shape"):
        module_problem(perceptron, *digits(), loss=each)
