r"""Weight perturbation: shake all weights, see whether the loss falls, and keep what made it fall.

.. math:: \Delta W = -\eta\, \frac{L(W + \sigma\xi) - L(W)}{\sigma}\, \xi, \qquad \xi \sim N(0, I)

A scalar for the whole network: an unbiased gradient whose variance grows with the number of weights. The
lower bound of what a local rule should reach. To first order the change of the loss is the product of its
gradient at the output with the change of the output, which is what is used here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from continual_ep.learning.feedforward import ForwardPass, StackRule
from continual_ep.options import option


@dataclass(frozen=True)
class WeightPerturbation(StackRule):
    r"""Weight perturbation, of an :class:`~continual_ep.networks.MLP`.

    ``scale`` is :math:`\sigma` in units of :math:`1/\sqrt{n}`, with n the units that a layer listens to. The
    perturbations are drawn from torch's global generator, as dropout draws.

    :raises ConfigurationError: for an impossible value.
    """

    scale: float = option(0.01, "of the perturbation, in units of one over the root of n", gt=0)
    draws: int = option(1, "perturbations tried on each batch", ge=1)

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
