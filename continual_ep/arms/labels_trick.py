"""Labels trick: the loss sees only the classes of the experience."""

from dataclasses import dataclass
from typing import Any

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.learning import NeuromodulatedEquilibriumLearning


@dataclass(frozen=True)
class LabelsTrick(Mechanism):
    """Labels trick, by :class:`~continual_ep.plugins.LabelsTrick`.

    Formula and source stand at the plugin. Nothing is kept. Deviation: in the paper a batch may
    bring its own classes; here it is the experience.
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
