"""A problem in one file: a module of PyTorch's own on scikit-learn's 8 x 8 digits."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stalegrad.problems import Task
from stalegrad.specs import spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PIXELS, CLASSES = 64, 10


@spec
class Digits:
    """Mean cross-entropy of a perceptron with one hidden layer of `units`.

    train_samples: images to train on, the first so many; the rest are for the test.
    """

    units: Annotated[int, Field(ge=1)] = 32
    train_samples: Annotated[int, Field(ge=1, le=1_700)] = 1_500

    def datasets(self) -> tuple[str, ...]:
        return ()

    def samples(self) -> int:
        return self.train_samples

    def draws(self) -> int:
        return self.train_samples

    def parameters(self) -> int:
        return self.units * (PIXELS + 1) + CLASSES * (self.units + 1)

    def classes(self) -> int:
        return CLASSES

    def load(self, data_folder: Path, device: "torch.device", dtype: "torch.dtype") -> Task:
        import torch
        from sklearn.datasets import load_digits
        from torch.nn.functional import cross_entropy
        from torch.nn.utils import parameters_to_vector

        def perceptron() -> torch.nn.Module:
            layers = torch.nn.Linear(PIXELS, self.units), torch.nn.Linear(self.units, CLASSES)
            return torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])

        module = perceptron().to(device)
        shapes = {name: part.shape for name, part in module.named_parameters()}

        def initial_weights(seed: int) -> "Tensor":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return parameters_to_vector(perceptron().parameters()).detach().double()

        def logits(weights: "Tensor", images: "Tensor") -> "Tensor":
            parts = weights.split([shape.numel() for shape in shapes.values()])
            named = zip(shapes.items(), parts, strict=True)
            shaped = {name: part.view(shape) for (name, shape), part in named}
            return torch.func.functional_call(module, shaped, (images.to(weights.dtype),))

        def loss(weights: "Tensor", images: "Tensor", labels: "Tensor") -> "Tensor":
            return cross_entropy(logits(weights, images), labels)

        def metrics(weights: "Tensor", images: "Tensor", labels: "Tensor") -> dict[str, "Tensor"]:
            outputs = logits(weights, images)
            correct = (outputs.argmax(dim=1) == labels).double().mean()
            return {"test_loss": cross_entropy(outputs, labels).double(), "test_accuracy": correct}

        images, labels = load_digits(return_X_y=True)
        inputs = torch.tensor(images / 16, dtype=dtype, device=device)
        targets = torch.tensor(labels, dtype=torch.int64, device=device)
        cut = self.train_samples
        return Task(
            name="digits",
            parameters=self.parameters(),
            initial_weights=initial_weights,
            loss=loss,
            metrics=metrics,
            train=(inputs[:cut], targets[:cut]),
            test=(inputs[cut:], targets[cut:]),
            options={},
        )
