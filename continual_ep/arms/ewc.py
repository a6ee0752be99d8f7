"""Elastic weight consolidation: weights that matter to earlier experiences are held back."""

from dataclasses import dataclass

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.arms.online_ewc import refuse_small_experiences
from continual_ep.options import option


@dataclass(frozen=True)
class EWC(Mechanism):
    r"""Elastic weight consolidation (EWC), by Avalanche's plugin.

    .. math:: L = \ell + \lambda \sum_k \sum_i F^k_i\, (\theta_i - \theta^k_i)^2, \qquad
              F^k = \frac{1}{B} \sum_b (\partial \ell_b / \partial \theta)^2

    with the weights :math:`\theta^k` after experience k. Kept: weights and importances of every
    experience, two numbers for each weight and experience. Source: Kirkpatrick et al. 2017
    (arXiv:1612.00796).

    Deviations: F is the squared gradient of the mean loss of a batch, averaged over the B batches
    of the experience, not of single samples, which makes it smaller by about the batch size; labels
    are the true ones (the empirical Fisher information); the penalty has no factor 1/2.

    Default: the paper gives none for these F. Importances reach 0.04 on Split-MNIST and 0.6 on
    digits (batches of 16 to 20), and a step of gradient descent on the penalty is stable for a
    learning rate below :math:`1 / (\lambda \sum_k F^k)`: at a learning rate of 0.1 strength 10 is,
    1000 is not.
    """

    main = "strength"
    needs = Needs(labels=True, boundaries=True, samples=False)
    sources = ("kirkpatrick2017",)

    strength: float = option(10.0, "weight of the penalty in the loss", gt=0)

    def install(self, assembly: Assembly) -> None:
        from continual_ep.plugins import penalties

        refuse_small_experiences("ewc", assembly)
        assembly.add("ewc", penalties.EWC(self.strength))
