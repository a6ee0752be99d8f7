r"""Weight perturbation: shake all weights, see whether the loss falls, and keep what made it fall.

.. math:: \Delta W = -\eta\, \frac{L(W + \sigma\xi) - L(W)}{\sigma}\, \xi, \qquad \xi \sim N(0, I)

A scalar for the whole network: an unbiased gradient whose variance grows with the number of weights. The
lower bound of what a local rule should reach. To first order the change of the loss is the product of its
gradient at the output with the change of the output, which is what is used here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.learning.feedforward import ForwardPass, StackRule
from continual_ep.learning.rule import checked_positive


@dataclass(frozen=True)
class WeightPerturbation(StackRule):
    r"""Weight perturbation, of an :class:`~continual_ep.networks.MLP`.

    :param scale: :math:`\sigma` in units of :math:`1/\sqrt{n}`, with n the units that a layer listens to.
    :param draws: perturbations tried on each batch, from torch's global generator, as dropout draws.
    :raises ConfigurationError: for an impossible value.
    """

    scale: float = 0.01
    draws: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ConfigurationError(f"scale is {self.scale}; it must be positive and finite")
        checked_positive("draws", self.draws)

    def gradients(
        self, forward: ForwardPass, output_gradient: Tensor
    ) -> tuple[list[Tensor | None], Tensor | None]:
        network = forward.network
        parameters = list(network.parameters())
        total = [torch.zeros_like(p) for p in parameters]
        before = forward.activations[-1]
        for _ in range(self.draws):
            noises = [torch.randn_like(p) for p in parameters]
            sizes = [self.scale / p.shape[-1] ** 0.5 for p in parameters]
            after = self._perturbed_output(forward, noises, sizes)
            gained = (output_gradient * (after - before)).sum()
            for whole, noise, size in zip(total, noises, sizes, strict=True):
                whole.add_(gained * noise / (size * self.draws))
        return list(total), None

    def _perturbed_output(
        self, forward: ForwardPass, noises: list[Tensor], sizes: list[float]
    ) -> Tensor:
        """The output of the network with other weights; its own stay as they are, to the last bit."""
        network, count = forward.network, len(forward.network.weights)
        moved = [n * size for n, size in zip(noises, sizes, strict=True)]
        state = forward.x
        for layer in range(count):
            current = network.current(layer, state) + state @ moved[layer].t()
            if len(network.biases):
                current = current + moved[count + layer]
            state = network.activate(layer, current)
        return state
