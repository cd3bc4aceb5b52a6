"""A `torch.nn.Module` of one's own on data of one's own, as a problem: see `module_problem`.

It is no choice of the configuration, since it is made of objects and not of names.
"""

import copy
import functools
import hashlib
import math
import threading
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from stalegrad.data_order import WEIGHTS, generator
from stalegrad.io.errors import ConfigError
from stalegrad.problems import Task
from stalegrad.problems._initialisation import Initialisation, MaybeInitialisation, torch_seeded
from stalegrad.specs import name_of, spec, validate

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

Loss = Callable[["Tensor", "Tensor"], "Tensor"]
Samples = tuple["Tensor", "Tensor"]

_SEEDS = 1, 2  # with which a module is made to find out what of it a seed decides


@dataclass(frozen=True)
class Parts:
    """What a `ModuleProblem` is made of; equal where the content is."""

    content: str
    make: Callable[[], "Module"] = field(compare=False)
    loss: Loss = field(compare=False)
    train: Samples = field(compare=False)
    test: Samples = field(compare=False)
    layers: tuple[type, ...] = field(compare=False)
    activations: int = field(compare=False)


@spec
class ModuleProblem:
    """The mean loss of a module's outputs; made by `module_problem`.

    network: name of the module's class. content: digest of its structure, of the weights that seed
    1 gives it, and of the data. weights: how many it has. train_samples, test_samples: rows.
    initialisation: the weights at the start are those of torch.manual_seed(its torch_seed), for
    every seed of the run.
    """

    network: str
    content: str
    weights: int
    train_samples: int
    test_samples: int
    parts: Annotated[Any, Field(exclude=True, repr=False)]
    initialisation: MaybeInitialisation = None

    test_chunk: ClassVar[int] = Task.test_chunk

    def datasets(self) -> tuple[str, ...]:
        return ()

    def samples(self) -> int:
        return self.train_samples

    def draws(self) -> int:
        return self.train_samples

    def parameters(self) -> int:
        return self.weights

    def activations(self) -> int:
        return self.parts.activations

    def code(self) -> tuple[Any, ...]:
        """What decides the loss: the functions given, and the classes of the module's layers."""
        given = (self.parts.make, self.parts.loss)
        plain = types.FunctionType | types.MethodType | functools.partial | type
        kinds = [each if isinstance(each, plain) else type(each) for each in given]
        return (*kinds, *self.parts.layers)

    def load(self, data_folder: Path, device: "torch.device", dtype: "torch.dtype") -> Task:
        """The task on `device`; inputs and targets that are not integers are of `dtype`."""
        from torch.nn.utils import parameters_to_vector

        def placed(samples: Samples) -> Samples:
            inputs, targets = (
                part.to(device, dtype if part.is_floating_point() else None) for part in samples
            )
            return inputs, targets

        def initial_weights(seed: int) -> "Tensor":
            if self.initialisation is not None:
                made = _made_after(self.parts.make, self.initialisation.torch_seed)
            else:
                made = _made(self.parts.make, seed)
            weights = parameters_to_vector(_trained(made).values())
            return weights.detach().double()

        module = _made(self.parts.make, _SEEDS[0]).to(device)
        shapes = tuple(tuple(weights.shape) for weights in _trained(module).values())
        training, evaluated = OfWeights(module, True), OfWeights(module, False)

        def loss(weights: "Tensor", inputs: "Tensor", targets: "Tensor") -> "Tensor":
            return self.parts.loss(training(weights, inputs), targets)

        def metrics(weights: "Tensor", inputs: "Tensor", targets: "Tensor") -> dict[str, "Tensor"]:
            outputs = evaluated(weights, inputs).double()
            exact = targets.double() if targets.is_floating_point() else targets
            found = {"test_loss": self.parts.loss(outputs, exact)}
            if _are_labels(targets) and outputs.dim() == 2:
                found["test_accuracy"] = (outputs.argmax(dim=1) == targets).double().mean()
            return found

        return Task(
            name=name_of(self),
            parameters=self.weights,
            initial_weights=initial_weights,
            loss=loss,
            metrics=metrics,
            train=placed(self.parts.train),
            test=placed(self.parts.test),
            options={},
            activations=self.activations(),
            shapes=shapes,
        )


@spec
class LabelledModuleProblem(ModuleProblem):
    """The same where the targets are classes 0, 1, ...

    labels: how many there are.
    """

    labels: int

    def classes(self) -> int:
        return self.labels


def module_problem(
    make: Callable[[], "Module"],
    train: Any,
    test: Any,
    *,
    loss: Loss | None = None,
    torch_seed: int | None = None,
) -> ModuleProblem:
    """A problem made of a PyTorch module and data.

    make: returns a new module with fresh weights: its class, or a function without arguments. What
        it draws comes from PyTorch's generator, which is seeded with the seed of each run.
    train, test: inputs and targets, as two tensors or arrays; or a data set that gives a pair
        (sample, label) for every number, as those of torchvision do. Inputs that are bytes
        (uint8) are images: the module is given numbers in [0, 1]. Other integers stay as they are.
    loss: (outputs [B, ...], targets [B, ...]) -> the mean over samples. By default cross-entropy
        where the targets are integers, and the mean squared error otherwise.
    torch_seed: every run starts from the weights that `make` gives after
        `torch.manual_seed(torch_seed)`, whatever its own seed.

    It is trained like every other problem, by the backend `torch`. Metrics are test_loss and, of
    labels, test_accuracy. Raises ConfigError, which names the layer, where a module cannot be
    trained so: with batch normalisation or dropout, whose training depends on more than weights and
    samples, and with weights that do not follow from the seed.
    """
    from torch import nn

    trained, tested = _samples(train, "train"), _samples(test, "test")
    labelled = _are_labels(trained[1])
    chosen = loss or (nn.functional.cross_entropy if labelled else nn.functional.mse_loss)
    module = _checked(make)
    labels = _count_labels(trained[1], tested[1]) if labelled else 0
    some = trained[0][:2], trained[1][:2]
    activations = _try_out(module, chosen, loss is None, *some, labels)
    layers = tuple(dict.fromkeys(type(layer) for layer in module.modules()))
    content = _digest(_structure(module), _described(chosen), *trained, *tested)
    keys: dict[str, Any] = {
        "network": type(module).__qualname__,
        "content": content,
        "weights": sum(weight.numel() for weight in _trained(module).values()),
        "train_samples": len(trained[1]),
        "test_samples": len(tested[1]),
        "initialisation": _initialisation(torch_seed),
        "parts": Parts(content, make, chosen, trained, tested, layers, activations),
    }
    return LabelledModuleProblem(labels=labels, **keys) if labelled else ModuleProblem(**keys)


class OfWeights:
    """A module as a function of flat weights [P] and inputs [B, ...].

    training: the mode that its layers are in.
    """

    def __init__(self, module: "Module", training: bool):
        self._module = copy.deepcopy(module).train(training)
        self._shapes = {name: weight.shape for name, weight in _trained(module).items()}
        self._constants = _constants(module)
        # While it is called, a module holds the weights that it is called with.
        self._copies = threading.local()

    def __call__(self, weights: "Tensor", inputs: "Tensor") -> "Tensor":
        import torch

        if not hasattr(self._copies, "module"):
            self._copies.module = copy.deepcopy(self._module)
        if inputs.dtype == torch.uint8:
            inputs = inputs.to(weights.dtype) / 255
        parts = weights.split([math.prod(shape) for shape in self._shapes.values()])
        tensors = {
            name: part.view(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }
        for name, constant in self._constants.items():
            tensors[name] = constant.to(weights.dtype) if constant.is_floating_point() else constant
        return torch.func.functional_call(self._copies.module, tensors, (inputs,))


def _made(make: Callable[[], "Module"], seed: int) -> "Module":
    """A module whose random numbers follow from `seed`."""
    return _made_after(make, int(generator(seed, WEIGHTS).integers(1 << 62)))


def _made_after(make: Callable[[], "Module"], torch_seed: int) -> "Module":
    with torch_seeded(torch_seed):
        return make()


def _initialisation(torch_seed: int | None) -> Initialisation | None:
    """Raises ConfigError for a seed that `torch.manual_seed` would not take."""
    if torch_seed is None:
        return None
    return validate(Initialisation, {"torch_seed": torch_seed}, where="module_problem")


def _trained(module: "Module") -> dict[str, "Tensor"]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _constants(module: "Module") -> dict[str, "Tensor"]:
    """Buffers, and parameters that are not trained."""
    frozen = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    return frozen | dict(module.named_buffers())


# ---- what cannot be trained ----


def _checked(make: Callable[[], "Module"]) -> "Module":
    """The module of the first seed. Raises ConfigError as `module_problem`."""
    import torch

    module, again, other = (_made(make, seed) for seed in (_SEEDS[0], *_SEEDS))
    if not isinstance(module, torch.nn.Module):
        raise _refused(
            f"'make' returned a {type(module).__name__}; it must return a torch.nn.Module"
        )
    if not _trained(module):
        raise _refused(f"{type(module).__name__} has no parameter that is trained")
    for name, layer in module.named_modules():
        if reason := _reason_against(layer):
            raise _refused(f"the layer '{name}' ({layer}) {reason}")
    weights, repeated = _trained(module), _trained(again)
    for name, value in weights.items():
        if not torch.equal(value, repeated[name]):
            raise _refused(
                f"the parameter '{name}' does not follow from the seed; draw it with PyTorch's "
                f"generator (torch.nn.init, torch.rand), and make every module anew"
            )
    kept = _constants(other)
    for name, value in _constants(module).items():
        if not torch.equal(value, kept[name]):
            raise _refused(
                f"'{name}' is not trained, yet other with every seed; make it a constant, or a "
                f"parameter that requires a gradient"
            )
    return module


def _reason_against(layer: "Module") -> str | None:
    from torch.nn.modules import batchnorm, dropout, instancenorm

    if isinstance(layer, batchnorm._BatchNorm):
        return (
            "is batch normalisation: its buffers are changed in training and belong to no version "
            "of the weights; use GroupNorm or LayerNorm, or leave it out"
        )
    if isinstance(layer, instancenorm._InstanceNorm) and layer.track_running_stats:
        return "changes its buffers in training; set track_running_stats=False"
    if isinstance(layer, dropout._DropoutNd) and layer.p > 0:
        return (
            "is dropout, whose random numbers would not follow from the seed; set its p to 0, or "
            "leave it out (the problem 'large_cnn' has dropout)"
        )
    return None


def _try_out(
    module: "Module",
    loss: Loss,
    by_default: bool,
    inputs: "Tensor",
    targets: "Tensor",
    labels: int,
) -> int:
    """Take a gradient of two samples, as training will. Returns how many numbers a sample becomes.

    by_default: the loss was chosen by the targets. labels: how many classes there are, 0 for none.
    Raises ConfigError where that fails, or changes a buffer.
    """
    import torch
    from torch.nn.utils import parameters_to_vector

    of_weights = OfWeights(module, training=True)
    weights = parameters_to_vector(_trained(module).values()).detach()
    if inputs.is_floating_point():
        inputs = inputs.to(weights.dtype)
    if targets.is_floating_point():
        targets = targets.to(weights.dtype)
    counted: list[int] = [inputs[0].numel()]

    def count(layer: "Module", given: Any, made: Any) -> None:
        if isinstance(made, torch.Tensor):
            counted.append(made.numel() // len(inputs))

    tried = copy.deepcopy(module).train()
    before = {name: value.clone() for name, value in _constants(tried).items()}
    for layer in tried.modules():
        layer.register_forward_hook(count)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            given = inputs.to(weights.dtype) / 255 if inputs.dtype == torch.uint8 else inputs
            outputs = tried(given)
        if by_default:
            _check_outputs(tuple(outputs.shape), tuple(targets.shape), labels)

        def of_run(weights: "Tensor") -> "Tensor":
            return loss(of_weights(weights, inputs), targets)

        value = torch.func.vmap(torch.func.grad_and_value(of_run))(weights[None])[1]
    except ConfigError:
        raise
    except Exception as error:  # of the user's own code, in as many ways as there is code
        said = " ".join(str(error).split())
        if "randomness" in said:
            said = "it draws random numbers in training, which would not follow from the seed"
        raise _refused(f"{type(module).__name__} cannot be differentiated: {said}") from error
    for name, constant in _constants(tried).items():
        if not torch.equal(constant, before[name]):
            raise _refused(f"training changes the buffer '{name}', and only weights may change")
    if value.shape != (1,):
        raise _refused(f"the loss has the shape {tuple(value.shape[1:])}; it must be one number")
    return sum(counted)


def _check_outputs(outputs: tuple[int, ...], targets: tuple[int, ...], labels: int) -> None:
    """Raises ConfigError where the default loss has no meaning for outputs of this shape."""
    if not labels and outputs != targets:
        raise _refused(
            f"the module makes {outputs} of two samples, whose targets are {targets}; the mean "
            f"squared error needs both alike"
        )
    if labels and (len(outputs) != 2 or outputs[1] < labels):
        raise _refused(
            f"the module makes {outputs} of two samples; cross-entropy needs a number for each of "
            f"the {labels} classes, (2, {labels})"
        )


def _refused(reason: str) -> ConfigError:
    return ConfigError(f"module_problem: {reason}.")


# ---- data ----


def _samples(part: Any, name: str) -> Samples:
    """Inputs [N, ...] and targets [N, ...] of a pair of arrays or of a data set."""
    if not (isinstance(part, tuple | list) and len(part) == 2):
        part = _collected(part, name)
    inputs, targets = (_tensor(each, name) for each in part)
    targets = targets if targets.is_floating_point() else targets.long()
    if inputs.dim() == 0 or targets.dim() == 0 or len(inputs) != len(targets) or not len(targets):
        raise _refused(
            f"'{name}' has inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)}; there "
            f"must be one target for each input, and at least one of both"
        )
    return inputs, targets


def _collected(dataset: Any, name: str) -> tuple[Any, Any]:
    import torch

    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise _refused(
            f"'{name}' is a {type(dataset).__name__}; it must be inputs and targets, or a data set "
            f"with a length and numbered samples"
        )
    if not len(dataset):
        raise _refused(f"'{name}' is an empty data set")
    pairs = [dataset[number] for number in range(len(dataset))]
    try:
        inputs = torch.stack([_image(sample) for sample, _ in pairs])
        targets = [torch.as_tensor(target) for _, target in pairs]
        return inputs, torch.stack(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise _refused(
            f"the samples of '{name}' cannot be stacked: {said}; each must be a pair (sample, "
            f"label) of one shape"
        ) from None


def _image(sample: Any) -> "Tensor":
    """A tensor or array as it is; an image of PIL, [height, width] or with channels last, as
    torchvision gives it without a transform, with channels first."""
    import torch

    if isinstance(sample, torch.Tensor | np.ndarray):
        return torch.as_tensor(sample)
    array = torch.from_numpy(np.array(sample))
    return array[None] if array.dim() == 2 else array.movedim(-1, 0) if array.dim() == 3 else array


def _tensor(array: Any, name: str) -> "Tensor":
    """On the CPU, and never the caller's own memory, which may change."""
    import torch

    try:
        tensor = torch.as_tensor(array).detach().cpu().clone().contiguous()
    except (TypeError, ValueError, RuntimeError) as error:
        raise _refused(f"'{name}' holds what is no array of numbers: {error}") from None
    whole = not tensor.is_floating_point() and tensor.dtype != torch.uint8
    return tensor.long() if whole else tensor


def _are_labels(targets: "Tensor") -> bool:
    return targets.dim() == 1 and not targets.is_floating_point()


def _count_labels(*targets: "Tensor") -> int:
    if (low := min(int(each.min()) for each in targets)) < 0:
        raise _refused(f"the label {low} is less than 0; labels are classes 0, 1, ...")
    return 1 + max(int(each.max()) for each in targets)


# ---- content ----


def _digest(*parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        if not isinstance(part, str):
            found.update(f"{part.dtype} {tuple(part.shape)}".encode())
            part = part.numpy()
        found.update(part.encode() if isinstance(part, str) else part.tobytes())
    return found.hexdigest()[:16]


def _structure(module: "Module") -> str:
    """Layers with their classes and settings, weights at the start, and constants."""
    from torch import nn

    lines, inner = [], vars(nn.Module()).keys()
    for name, layer in module.named_modules():
        lines.append(f"{name}: {type(layer).__module__}.{type(layer).__qualname__}")
        settings = {key: value for key, value in vars(layer).items() if key not in inner}
        lines += [f"{name}.{key} = {_described(value)}" for key, value in settings.items()]
    tensors = _trained(module) | _constants(module)
    lines += [f"{name}: {_digest(value.detach().cpu())}" for name, value in tensors.items()]
    return "\n".join(lines)


def _described(value: Any) -> str:
    import torch

    if isinstance(value, torch.nn.Module):
        return _structure(value)
    if isinstance(value, torch.Tensor | np.ndarray):
        return _digest(torch.as_tensor(value).detach().cpu())
    if isinstance(value, functools.partial):
        return _described([value.func, value.args, value.keywords])
    if isinstance(value, types.FunctionType):
        captured = [cell.cell_contents for cell in value.__closure__ or ()]
        values = [*captured, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).items()]
        named = [getattr(each, "__qualname__", each) for each in values]
        return f"{value.__module__}.{value.__qualname__} {_described(named)}"
    if isinstance(value, Mapping):
        return _described([[key, each] for key, each in value.items()])
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_described, value))}]"
    return repr(value)
