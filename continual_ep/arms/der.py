"""Dark experience replay: exemplars with their labels and old outputs."""

from dataclasses import dataclass
from typing import Any

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.learning import NeuromodulatedEquilibriumLearning
from continual_ep.options import option, plain_values


@dataclass(frozen=True)
class DarkExperienceReplay(Mechanism):
    """Dark experience replay with labels (DER++), by :class:`~continual_ep.plugins.DarkReplay`.

    What is kept are exemplars, class-balanced, with their labels and old outputs; formula, source and
    deviations stand at the plugin. The defaults are the authors' for Split-MNIST and 200 exemplars.
    """

    main = "total"
    needs = Needs(labels=True, boundaries=True, samples=True)
    takes = frozenset({"data"})
    sources = ("buzzega2020",)

    total: int = option(200, "exemplars kept in all, equally many of each class", ge=1)
    alpha: float = option(0.2, "weight of the old outputs", ge=0)
    beta: float = option(1.0, "weight of the labels of exemplars", gt=0)
    batch_size: int | None = option(None, "exemplars in a step; null: training.batch_size", ge=1)

    def refusal(self, rule: Any, network: Any) -> str | None:
        if isinstance(rule, NeuromodulatedEquilibriumLearning) and self.alpha:
            return "the rule learns from a reward, not from the distance to old outputs"
        return None

    def install(self, assembly: Assembly) -> None:
        from continual_ep.arms.replay_state import memory_state
        from continual_ep.plugins import DarkReplay

        plugin = DarkReplay(**plain_values(self), seed=assembly.seed)
        assembly.add("der++", plugin, memory_state(plugin, assembly))
