"""Memory aware synapses: weights that the output depends on are held back."""

from dataclasses import dataclass

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.arms.online_ewc import refuse_small_experiences
from continual_ep.options import option


@dataclass(frozen=True)
class MemoryAwareSynapses(Mechanism):
    r"""Memory aware synapses (MAS), after Avalanche's plugin.

    .. math:: L = \ell + \lambda \sum_i \Omega_i\, (\theta_i - \theta^k_i)^2, \qquad
              \Omega \leftarrow \alpha\, \Omega + (1 - \alpha)\, \frac{1}{B} \sum_b
              |\partial \overline{\|o\|^2}_b / \partial \theta|

    with the weights :math:`\theta^k` after the last experience and outputs o, without labels. Kept:
    weights and importances, two numbers for each weight. Source: Aljundi et al. 2018
    (arXiv:1711.09601).

    Deviations: the gradient is that of the mean over a batch, not of single samples; importances
    are averaged over experiences, where the paper adds them up. Default: a tenth of Avalanche's 1,
    as importances reach 28 on Split-MNIST, where 1 diverges at a learning rate of 0.1.
    """

    main = "strength"
    needs = Needs(labels=False, boundaries=True, samples=False)
    sources = ("aljundi2018",)

    strength: float = option(0.1, "weight of the penalty in the loss", gt=0)
    decay: float = option(0.5, "part of the earlier importances in the mean (alpha)", ge=0, lt=1)

    def install(self, assembly: Assembly) -> None:
        from continual_ep.plugins import penalties

        refuse_small_experiences("mas", assembly)
        assembly.add("mas", penalties.MAS(self.strength, self.decay))
