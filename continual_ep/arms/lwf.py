"""Learning without forgetting: the network keeps answering as it did before the experience."""

from dataclasses import dataclass
from typing import Any

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.learning import NeuromodulatedEquilibriumLearning
from continual_ep.options import option


@dataclass(frozen=True)
class LearningWithoutForgetting(Mechanism):
    r"""Learning without forgetting (LwF), by Avalanche's plugin.

    .. math:: L = \ell + \alpha\, \mathrm{KL}\big(\mathrm{softmax}(o^k / T)\,\|\,
              \mathrm{softmax}(o / T)\big)

    over the outputs of the classes learned before, where :math:`o^k` are the answers of the network
    after the last experience to the same inputs. Kept: that network. Each step costs a second
    forward pass. Source: Li and Hoiem 2016 (arXiv:1606.09282).

    Deviations: one read-out for all classes; the loss of the new classes sees all outputs (see
    ``labels-trick``); no warm-up of the read-out; no factor :math:`T^2`. The former network answers
    without dropout, as in the paper and unlike Avalanche. Default: Avalanche's.
    """

    main = "strength"
    needs = Needs(labels=False, boundaries=True, samples=False)
    sources = ("li2016",)

    strength: float = option(1.0, "weight of the distillation in the loss (alpha)", gt=0)
    temperature: float = option(2.0, "of both softmax functions", gt=0)

    def refusal(self, rule: Any, network: Any) -> str | None:
        if isinstance(rule, NeuromodulatedEquilibriumLearning):
            return "the rule learns from a reward, not from the gradient of a distillation"
        return None

    def install(self, assembly: Assembly) -> None:
        from continual_ep.plugins import penalties

        assembly.add("lwf", penalties.LwF(self.strength, self.temperature))
