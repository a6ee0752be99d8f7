"""Synaptic intelligence: importances from the path of each weight during training."""

from dataclasses import dataclass
from typing import ClassVar

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.options import option


@dataclass(frozen=True)
class SynapticIntelligence(Mechanism):
    r"""Synaptic intelligence (SI), by Avalanche's plugin.

    .. math:: L = \ell + \frac{\lambda}{2} \sum_i \Omega_i\, (\theta_i - \tilde\theta_i)^2, \qquad
              \Omega_i = \min\Big(\sum_k \frac{-\sum_t g_i\, \Delta\theta_i}
              {(\Delta^k_i)^2 + \epsilon},\ 0.001\Big)

    with the weights :math:`\tilde\theta` at the start of the experience and their change
    :math:`\Delta^k` over experience k. Kept: the sum, one number for each weight. Source: Zenke,
    Poole, Ganguli 2017 (arXiv:1703.04200), in the variant of Maltoni and Lomonaco 2019
    (arXiv:1806.08568).

    Deviations: importances are cut at 0.001 and may be negative; the gradient g is that of loss and
    penalty together; the penalty has a factor 1/2. Avalanche 0.6 finds importances of zero on the
    CPU, which is corrected here. Default: measured on Split-MNIST (784-512-10, SGD 0.1, one seed),
    where 100 has no effect and 1000 costs 5 points of the newest classes; values published for
    importances that are not cut do not carry over.
    """

    main: ClassVar[str | None] = "strength"
    needs: ClassVar[Needs] = Needs(labels=False, boundaries=True, samples=False)
    sources: ClassVar[tuple[str, ...]] = ("zenke2017", "maltoni2019")

    strength: float = option(500.0, "weight of the penalty in the loss", gt=0)
    damping: float = option(1e-7, "added to the squared change of a weight (epsilon)", gt=0)

    def install(self, assembly: Assembly) -> None:
        from continual_ep.plugins import penalties

        assembly.add("si", penalties.SynapticIntelligence(self.strength, eps=self.damping))
