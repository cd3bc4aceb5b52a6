"""LeNet-5 (LeCun et al. 1998) on MNIST or Fashion-MNIST, as jain2018 and lamour2023 train it."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stalegrad.data import load_dataset
from stalegrad.partitions import WEIGHTS, generator
from stalegrad.problems import Task
from stalegrad.specs import spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TRAIN_IMAGES, TEST_IMAGES = 60_000, 10_000

# Weights and biases in the order of PyTorch's parameters().
SHAPES = (
    *((6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,)),
    *((120, 400), (120,), (84, 120), (84,), (10, 84), (10,)),
)
SIZES = tuple(math.prod(shape) for shape in SHAPES)
PARAMETERS = sum(SIZES)  # 61,706
CLASSES = 10


@spec
class LeNet5:
    """Mean cross-entropy of LeNet-5 on images of ten classes.

    dataset: which images.
    normalize: subtract the training set's mean and divide by its standard deviation; otherwise
        pixels lie in [0, 1].
    train_samples, test_samples: use only the first so many images.
    details: record each epoch also what `details` below computes.
    """

    dataset: Literal["mnist", "fashion_mnist"]
    normalize: bool = False
    train_samples: Annotated[int, Field(ge=1, le=TRAIN_IMAGES)] = TRAIN_IMAGES
    test_samples: Annotated[int, Field(ge=1, le=TEST_IMAGES)] = TEST_IMAGES
    details: bool = False

    def datasets(self) -> tuple[str, ...]:
        return (self.dataset,)

    def samples(self) -> int:
        return self.train_samples

    def parameters(self) -> int:
        return PARAMETERS

    def classes(self) -> int:
        return CLASSES

    def load(self, data_folder: Path, device: "torch.device", dtype: "torch.dtype") -> Task:
        import torch

        data = load_dataset(self.dataset, data_folder)
        scale, shift = 1 / 255, 0.0
        if self.normalize:
            mean, deviation = data.train_images.mean(), data.train_images.std()
            scale, shift = float(1 / deviation), float(-mean / deviation)

        def part(images, labels, count):
            inputs = torch.tensor(images[:count], device=device)
            return inputs, torch.tensor(labels[:count], dtype=torch.int64, device=device)

        def logits(weights: "Tensor", images: "Tensor") -> "Tensor":
            return network(weights, images.to(weights.dtype) * scale + shift)

        def loss(weights: "Tensor", images: "Tensor", labels: "Tensor") -> "Tensor":
            return torch.nn.functional.cross_entropy(logits(weights, images), labels)

        def metrics(weights: "Tensor", images: "Tensor", labels: "Tensor") -> dict[str, "Tensor"]:
            outputs = logits(weights, images)
            losses = torch.nn.functional.cross_entropy(outputs, labels, reduction="none")
            classes = outputs.argmax(dim=1)
            correct = (classes == labels).double()
            means = {"test_loss": losses.double().mean(), "test_accuracy": correct.mean()}
            return means | (details(weights, classes, labels) if self.details else {})

        return Task(
            name="lenet5",
            parameters=PARAMETERS,
            initial_weights=initial_weights,
            loss=loss,
            metrics=metrics,
            train=part(data.train_images, data.train_labels, self.train_samples),
            test=part(data.test_images, data.test_labels, self.test_samples),
            options={"scale": scale, "shift": shift},
            details=details if self.details else None,
        )


def details(weights: "Tensor", classes: "Tensor", labels: "Tensor") -> dict[str, "Tensor"]:
    """Norm of weights [..., P], and shares of predicted `classes` [..., N] against `labels` [N].

    correct_<c>, predicted_<c>, labelled_<c>: samples of class c that are predicted to be, that are
    predicted to be of c, and that are of c, each as a share of all N. Recall is correct / labelled,
    precision correct / predicted.
    """
    found = {"weight_norm": weights.double().norm(dim=-1)}
    for c in range(CLASSES):
        predicted, labelled = classes == c, (labels == c).expand(classes.shape)
        found[f"correct_{c}"] = (predicted & labelled).double().mean(dim=-1)
        found[f"predicted_{c}"] = predicted.double().mean(dim=-1)
        found[f"labelled_{c}"] = labelled.double().mean(dim=-1)
    return found


def initial_weights(seed: int) -> "Tensor":
    """PyTorch's default: weights and biases uniform in +-1/sqrt(fan-in of their layer); float64."""
    import torch

    rng = generator(seed, WEIGHTS)
    fan_in = [math.prod(shape[1:]) for shape in SHAPES[::2] for _ in range(2)]
    layers = [
        rng.uniform(-1, 1, size) / math.sqrt(fan) for size, fan in zip(SIZES, fan_in, strict=True)
    ]
    return torch.cat([torch.from_numpy(layer) for layer in layers])


def network(weights: "Tensor", images: "Tensor") -> "Tensor":
    """Logits [B, 10] of images [B, 28, 28] at flat weights [P].

    ReLU after the pooling is the same function as before it, and four times cheaper.
    """
    from torch.nn.functional import conv2d, linear, max_pool2d, relu

    layers = [w.view(s) for w, s in zip(weights.split(SIZES), SHAPES, strict=True)]
    x = relu(max_pool2d(conv2d(images.unsqueeze(1), *layers[0:2], padding=2), 2))
    x = relu(max_pool2d(conv2d(x, *layers[2:4]), 2)).flatten(1)
    x = relu(linear(x, *layers[4:6]))
    x = relu(linear(x, *layers[6:8]))
    return linear(x, *layers[8:10])
