"""Synaptic homeostasis: weights become weaker during sleep."""

from dataclasses import dataclass

from continual_ep.options import option
from continual_ep.sleep.algorithm import Night, SleepAlgorithm


@dataclass(frozen=True, kw_only=True)
class Downscaling(SleepAlgorithm):
    r"""Multiply all weights by a factor, and remove the weakest.

    .. math::

        w_{ij} \leftarrow f\, w_{ij}, \qquad
        w_{ij} \leftarrow 0 \;\text{ where }\; |w_{ij}| < c \max_{kl} |w_{kl}|

    The synaptic homeostasis hypothesis (Tononi and Cirelli 2014, doi:10.1016/j.neuron.2013.12.025):
    learning strengthens synapses, and sleep brings their strength back to what can be sustained. It
    needs nothing from the awake phase. In a network of ReLU units without biases the factor alone
    changes no decision; it changes how much later learning moves the weights. Biases stay.
    """

    factor: float = option(0.8, "of all weights in a night", gt=0, le=1)
    cutoff: float = option(
        0.0, "weights below this fraction of the layer's largest become zero", ge=0, lt=1
    )

    def run(self, night: Night) -> None:
        for layer in night.plastic_layers:
            weight = layer.weight
            weight.mul_(self.factor)
            strength = weight.abs()
            weight[strength < self.cutoff * strength.max()] = 0.0
