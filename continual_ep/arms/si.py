"""Synaptic intelligence: importances from the path of each weight during training."""

from dataclasses import dataclass

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.options import option


@dataclass(frozen=True)
class SynapticIntelligence(Mechanism):
    r"""Synaptic intelligence (SI), by Avalanche's plugin.

    .. math:: L = \ell + \frac{\lambda}{2} \sum_i \Omega_i\, (\theta_i - \tilde\theta_i)^2, \qquad
              \Omega_i = \Big[\sum_k \frac{-\sum_t g_i\, \Delta\theta_i}
              {(\Delta^k_i)^2 + \epsilon}\Big]_0^{0.001}

    with the weights :math:`\tilde\theta` at the start of the experience and their change
    :math:`\Delta^k` over experience k. Kept: the sum, one number for each weight. Source: Zenke,
    Poole, Ganguli 2017 (arXiv:1703.04200), in the variant of Maltoni and Lomonaco 2019
    (arXiv:1806.08568).

    Deviations: importances are cut at 0 and 0.001; the gradient g is that of loss and penalty
    together; the penalty has a factor 1/2. Two things of Avalanche 0.6 are corrected here: on the
    CPU it finds importances of zero, and negative importances of any size, which push weights away.

    Default: measured on Split-MNIST. With Avalanche's damping of 1e-7 four of five importances
    are at the cut, so that the penalty holds all weights alike; with 0.1 one of three is.
    """

    main = "strength"
    needs = Needs(labels=False, boundaries=True, samples=False)
    sources = ("zenke2017", "maltoni2019")

    strength: float = option(500.0, "weight of the penalty in the loss", gt=0)
    damping: float = option(0.1, "added to the squared change of a weight (epsilon)", gt=0)

    def install(self, assembly: Assembly) -> None:
        from continual_ep.plugins import penalties

        assembly.add("si", penalties.SynapticIntelligence(self.strength, eps=self.damping))
