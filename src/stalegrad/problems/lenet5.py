"""LeNet-5 (LeCun et al. 1998) on MNIST or Fashion-MNIST."""

from stalegrad.problems._images import CLASSES, IMAGE, ImageProblem
from stalegrad.problems._network import Connected, Convolution, MaxPooling, Network, ReLU
from stalegrad.specs import spec

# ReLU after the pooling is the same function as before it, and four times cheaper.
NETWORK = Network(
    IMAGE,
    (
        *(Convolution(6, 5, padding=2), MaxPooling(2), ReLU()),
        *(Convolution(16, 5), MaxPooling(2), ReLU()),
        *(Connected(120), ReLU(), Connected(84), ReLU(), Connected(CLASSES)),
    ),
)


@spec
class LeNet5(ImageProblem):
    __doc__ = ImageProblem.__doc__

    network = NETWORK
