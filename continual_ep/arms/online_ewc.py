"""Online EWC: one penalty whose importances fade, instead of one for each experience."""

from dataclasses import dataclass

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.errors import ConfigurationError
from continual_ep.options import option


@dataclass(frozen=True)
class OnlineEWC(Mechanism):
    r"""Online elastic weight consolidation, by Avalanche's plugin.

    .. math:: L = \ell + \lambda \sum_i \bar F^k_i\, (\theta_i - \theta^k_i)^2, \qquad
              \bar F^k = \gamma \bar F^{k-1} + F^k

    with the weights :math:`\theta^k` after the last experience. Kept: one set of weights and
    importances, two numbers for each weight. Source: Schwarz et al. 2018 (arXiv:1805.06370), with
    :math:`\gamma < 1`; :math:`\gamma = 1` is the sum of Huszár 2018 (arXiv:1712.03847).

    Deviations: those of ``ewc``. Default: the strength of ``ewc``; the decay of 0.95 is ours.
    """

    main = "strength"
    needs = Needs(labels=True, boundaries=True, samples=False)
    sources = ("schwarz2018",)

    strength: float = option(10.0, "weight of the penalty in the loss", gt=0)
    decay: float = option(0.95, "part of the importances kept at each experience", ge=0, le=1)

    def install(self, assembly: Assembly) -> None:
        from continual_ep.plugins import penalties

        refuse_small_experiences("online-ewc", assembly)
        plugin = penalties.EWC(self.strength, mode="online", decay_factor=self.decay)
        assembly.add("online-ewc", plugin)


def refuse_small_experiences(name: str, assembly: Assembly) -> None:
    """Refuse streams that are cut into small experiences.

    :raises ConfigurationError: importances would be computed after each of these.
    """
    if getattr(assembly.benchmark, "origin_experience", None) is not None:
        raise ConfigurationError(
            f"{name} consolidates after every experience, and stream.online cuts experiences into "
            "parts of a few batches: leave stream.online out, or choose si or owm"
        )
