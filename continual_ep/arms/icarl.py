"""iCaRL: herded exemplars, distillation, and answers by the nearest mean of exemplars."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.errors import ConfigurationError
from continual_ep.learning import NeuromodulatedEquilibriumLearning
from continual_ep.options import option, plain_values


@dataclass(frozen=True)
class ICaRL(Mechanism):
    """Incremental classifier and representation learning, by :class:`~continual_ep.plugins.ICaRL`.

    What is kept are exemplars; formula and deviations stand at the plugin. Source: Rebuffi et al. 2017
    (arXiv:1611.07725), who keep a total (2,000 for 100 classes) and weigh both losses alike.
    """

    main = "total"
    needs = Needs(labels=True, boundaries=True, samples=True)
    takes = frozenset({"data", "answers"})
    sources = ("rebuffi2017",)

    total: int | None = option(200, "exemplars kept in all, equally many of each class", ge=1)
    per_class: int | None = option(None, "exemplars kept of each class, instead of total", ge=1)
    distillation: float = option(1.0, "weight of the old outputs", ge=0)
    batch_size: int | None = option(
        None, "samples of a mixed batch; null: training.batch_size", ge=1
    )

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """``per_class`` stands in place of a total."""
        if values.get("per_class") is not None and "total" not in values:
            return {**values, "total": None}
        return values

    def check_combination(self) -> None:
        if (self.per_class is None) == (self.total is None):
            raise ConfigurationError("give either total or per_class (set the other to null)")

    def refusal(self, rule: Any, network: Any) -> str | None:
        if isinstance(rule, NeuromodulatedEquilibriumLearning) and self.distillation:
            return (
                "the rule learns from a reward, not from the gradient of a distillation; "
                "icarl.distillation: 0 leaves that out"
            )
        return None

    def install(self, assembly: Assembly) -> None:
        from continual_ep.arms.replay_state import memory_state
        from continual_ep.plugins.icarl import ICaRL as Plugin

        plugin = Plugin(**plain_values(self), seed=assembly.seed)
        assembly.add("icarl", plugin, memory_state(plugin, assembly))
