r"""Coupled learning: the output is clamped a little of the way to its target.

.. math:: s_L^C = s_L^F + \eta\,(y - s_L^F), \qquad \Delta W_l \propto \frac{1}{\eta}
          \left( s_l^C s_{l-1}^{C\,T} - s_l^F s_{l-1}^{F\,T} \right)

With :math:`\eta = 1` it is contrastive Hebbian learning; towards 0, equilibrium propagation on an output
that is held. Source: Stern, Hexner, Rocks and Liu 2021 (doi:10.1103/PhysRevX.11.021045).
"""

from dataclasses import dataclass

from continual_ep.learning.contrastive_hebbian import ContrastiveHebbian
from continual_ep.options import option


@dataclass(frozen=True)
class CoupledLearning(ContrastiveHebbian):
    """Coupled learning; all else is as of :class:`~continual_ep.learning.ContrastiveHebbian`.

    :raises ConfigurationError: for an impossible value.
    """

    sources = ("stern2021",)

    amplitude: float = option(
        0.1, "how far of the way to its target the output is clamped", gt=0, le=1
    )

    @property
    def clamp_strength(self) -> float:
        return self.amplitude
