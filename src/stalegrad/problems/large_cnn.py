"""The 'large alternative model' of Lamour et al. 2023 (its Figure 6): two convolutions and dropout.

As the authors built it: nothing but the pooling behind the second convolution.
"""

from stalegrad.problems._images import CLASSES, IMAGE, ImageProblem
from stalegrad.problems._network import (
    Connected,
    Convolution,
    Dropout,
    MaxPooling,
    Network,
    ReLU,
)
from stalegrad.specs import spec

NETWORK = Network(
    IMAGE,
    (
        *(Convolution(32, 3), ReLU(), Convolution(64, 3), MaxPooling(2), Dropout(0.25)),
        *(Connected(128), ReLU(), Dropout(0.5), Connected(CLASSES)),
    ),
)


@spec
class LargeCNN(ImageProblem):
    __doc__ = ImageProblem.__doc__

    network = NETWORK
    test_chunk = 100  # the activations of an image take half a megabyte
