"""Networks that classify 28 x 28 images of ten classes: data, loss and metrics."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from stalegrad.io.datasets import DATASETS, Dataset, load_dataset
from stalegrad.problems import Task, Together
from stalegrad.problems._initialisation import MaybeInitialisation
from stalegrad.problems._network import Network
from stalegrad.specs import name_of, spec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    DatasetName = str
else:
    DatasetName = Literal[*DATASETS]

IMAGE = (1, 28, 28)
CLASSES = 10
TRAIN_IMAGES, TEST_IMAGES = 60_000, 10_000


@spec
class ImageProblem:
    """Mean cross-entropy of `network` on images of ten classes; a problem is a subclass.

    dataset: which images.
    normalize: subtract the training set's mean and divide by its standard deviation; otherwise
        pixels lie in [0, 1].
    train_samples, test_samples: use only the first so many images.
    details: record each epoch also what `details` below computes.
    initialisation: the weights at the start are those of a plain PyTorch construction of the same
        layers in the same order after torch.manual_seed(its torch_seed), for every seed of the
        run; otherwise they follow from the seed of the run.
    """

    dataset: DatasetName
    normalize: bool = False
    train_samples: Annotated[int, Field(ge=1, le=TRAIN_IMAGES)] = TRAIN_IMAGES
    test_samples: Annotated[int, Field(ge=1, le=TEST_IMAGES)] = TEST_IMAGES
    details: bool = False
    initialisation: MaybeInitialisation = None

    network: ClassVar[Network]
    test_chunk: ClassVar[int] = Task.test_chunk

    def datasets(self) -> tuple[str, ...]:
        return (self.dataset,)

    def samples(self) -> int:
        return self.train_samples

    def draws(self) -> int:
        return self.train_samples

    def parameters(self) -> int:
        return self.network.parameters

    def classes(self) -> int:
        return CLASSES

    def initial_weights(self, seed: int) -> "Tensor":
        """`Task.initial_weights`."""
        if self.initialisation is not None:
            return self.network.torch_weights(self.initialisation.torch_seed)
        return self.network.initial_weights(seed)

    def activations(self) -> int:
        return self.network.activations

    def metrics_of(
        self, weights: "Tensor", losses: "Tensor", classes: "Tensor", labels: "Tensor"
    ) -> dict[str, "Tensor"]:
        """test_loss, the mean of `losses` [..., N]; test_accuracy, the share of `classes` [..., N]
        that equal `labels` [N]; and `details` where they are asked for."""
        correct = (classes == labels).double()
        means = {"test_loss": losses.double().mean(dim=-1), "test_accuracy": correct.mean(dim=-1)}
        return means | (details(weights, classes, labels) if self.details else {})

    def load(self, data_folder: Path, device: "torch.device", dtype: "torch.dtype") -> Task:
        return self.on(load_dataset(self.dataset, data_folder), device)

    def on(self, data: Dataset, device: "torch.device") -> Task:
        """The task on these images."""
        import torch

        scale, shift = 1 / 255, 0.0
        if self.normalize:
            mean, deviation = data.train_images.mean(), data.train_images.std()
            scale, shift = float(1 / deviation), float(-mean / deviation)

        def part(
            images: "np.ndarray", labels: "np.ndarray", count: int
        ) -> tuple["Tensor", "Tensor"]:
            inputs = torch.tensor(images[:count], device=device)
            return inputs, torch.tensor(labels[:count], dtype=torch.int64, device=device)

        def logits(weights: "Tensor", images: "Tensor", noise: "Tensor | None") -> "Tensor":
            x = images.to(weights.dtype) * scale + shift
            return self.network(weights, x.unsqueeze(1), noise)

        def loss(
            weights: "Tensor", images: "Tensor", labels: "Tensor", noise: "Tensor | None" = None
        ) -> "Tensor":
            return torch.nn.functional.cross_entropy(logits(weights, images, noise), labels)

        def metrics(weights: "Tensor", images: "Tensor", labels: "Tensor") -> dict[str, "Tensor"]:
            outputs = logits(weights, images, None)
            losses = torch.nn.functional.cross_entropy(outputs, labels, reduction="none")
            return self.metrics_of(weights, losses, outputs.argmax(dim=1), labels)

        def together(
            weights: "Tensor", images: "Tensor", labels: "Tensor"
        ) -> tuple["Tensor", "Tensor"]:
            """Losses and predicted classes [R, B], of images and labels [G, B, ...]."""
            x = images.to(weights.dtype) * scale + shift
            outputs = self.network.together(weights, x.unsqueeze(2))
            wanted = labels.repeat_interleave(len(weights) // len(labels), dim=0).flatten()
            each = torch.nn.functional.cross_entropy(
                outputs.flatten(0, 1), wanted, reduction="none"
            )
            return each.view(outputs.shape[:2]), outputs.argmax(dim=2)

        def many_losses(weights: "Tensor", images: "Tensor", labels: "Tensor") -> "Tensor":
            return together(weights, images, labels)[0].mean(dim=1)

        def many_metrics(
            weights: "Tensor", images: "Tensor", labels: "Tensor"
        ) -> dict[str, "Tensor"]:
            losses, classes = together(weights, images[None], labels[None])
            return self.metrics_of(weights, losses, classes, labels)

        return Task(
            name=name_of(self),
            parameters=self.parameters(),
            initial_weights=self.initial_weights,
            loss=loss,
            metrics=metrics,
            train=part(data.train_images, data.train_labels, self.train_samples),
            test=part(data.test_images, data.test_labels, self.test_samples),
            options={"scale": scale, "shift": shift},
            metrics_of=self.metrics_of,
            noise=self.network.noise,
            test_chunk=self.test_chunk,
            activations=self.activations(),
            together=Together(many_losses, many_metrics),
            shapes=self.network.shapes,
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
