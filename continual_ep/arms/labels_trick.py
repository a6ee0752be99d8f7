"""Labels trick: the loss sees only the classes of the experience."""

from dataclasses import dataclass
from typing import Any

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.learning import NeuromodulatedEquilibriumLearning


@dataclass(frozen=True)
class LabelsTrick(Mechanism):
    r"""Labels trick, by :class:`~continual_ep.plugins.LabelsTrick`.

    .. math:: \ell = -\log \frac{e^{o_y}}{\sum_{c \in C_k} e^{o_c}}, \qquad
              \text{or } \tfrac{1}{2} \sum_{c \in C_k} (o_c - y_c)^2

    with the classes :math:`C_k` of the experience, so that training does not lower the outputs of
    other classes. Answers are chosen among all classes. Nothing is kept. Source: Zeno, Golan,
    Hoffer, Soudry 2018 (arXiv:1803.10123). Deviation: there a batch may bring its own classes; here
    it is the experience.
    """

    needs = Needs(labels=True, boundaries=True, samples=False)
    takes = frozenset({"loss"})
    sources = ("zeno2018",)

    def refusal(self, rule: Any, network: Any) -> str | None:
        if isinstance(rule, NeuromodulatedEquilibriumLearning):
            return "its reward is for the choice among all classes, not among those of a loss"
        return None

    def conflict(self, other: Mechanism) -> str | None:
        if other.needs.samples:
            return (
                "the loss sees only the classes of the experience, so that stored samples of "
                "other classes would have none"
            )
        return None

    def install(self, assembly: Assembly) -> None:
        from continual_ep.plugins import LabelsTrick as Plugin

        assembly.add("labels-trick", Plugin())
