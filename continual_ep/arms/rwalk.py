"""Riemannian walk: importances from Fisher information and path of each weight."""

from dataclasses import dataclass

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.arms.online_ewc import refuse_small_experiences
from continual_ep.options import option


@dataclass(frozen=True)
class RiemannianWalk(Mechanism):
    r"""Riemannian walk (RWalk), by Avalanche's plugin.

    .. math:: L = \ell + \lambda \sum_i \Big(\frac{F_i}{\max F} + \frac{[s_i]_+}{\max s}\Big)
              (\theta_i - \theta^k_i)^2, \qquad F \leftarrow \alpha\, g^2 + (1 - \alpha)\, F

    with the weights :math:`\theta^k` after the last experience, the gradient g of each batch, and
    scores s: the fall of the loss along the path of a weight, divided by its length in the metric
    F over ``interval`` steps; averaged with those of earlier experiences. Kept: weights,
    importances and scores, three numbers for each weight. Each step costs a second pass. Source:
    Chaudhry et al. 2018 (arXiv:1801.10112).

    Deviations: without the stored samples of the paper; F is the squared gradient of the mean loss
    of a batch; the gradient of a step is taken in evaluation mode. Default: Avalanche's; the
    normalised importances are at most 2.
    """

    main = "strength"
    needs = Needs(labels=True, boundaries=True, samples=False)
    sources = ("chaudhry2018",)

    strength: float = option(0.1, "weight of the penalty in the loss", gt=0)
    update: float = option(0.9, "part of the newest gradient in the importances", gt=0, le=1)
    interval: int = option(10, "steps between two scores", ge=1)

    def install(self, assembly: Assembly) -> None:
        from continual_ep.plugins import penalties

        refuse_small_experiences("rwalk", assembly)
        plugin = penalties.RWalk(self.strength, ewc_alpha=self.update, delta_t=self.interval)
        assembly.add("rwalk", plugin)
