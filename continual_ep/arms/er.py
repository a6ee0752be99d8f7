"""Experience replay: exemplars of earlier classes are learned again with the new ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.errors import ConfigurationError
from continual_ep.options import option, plain_values


@dataclass(frozen=True)
class ExperienceReplay(Mechanism):
    """Experience replay (ER), by :class:`~continual_ep.plugins.AwakeRehearsal`.

    Each batch holds new samples and exemplars; what is kept are the exemplars. Source: Chaudhry et
    al. 2019 (arXiv:1902.10486); herding: Rebuffi et al. 2017 (arXiv:1611.07725).
    """

    main = "per_class"
    needs = Needs(labels=True, boundaries=True, samples=True)
    takes = frozenset({"data"})

    per_class: int | None = option(2, "exemplars kept of each class", ge=1)
    total: int | None = option(None, "exemplars kept in all, instead of per_class", ge=1)
    selection: Literal["reservoir", "class-balanced", "herding"] = option(
        "class-balanced", "which samples are kept; reservoir needs total"
    )
    batch_size: int | None = option(
        None, "samples of a mixed batch; null: training.batch_size", ge=2
    )
    share: float | Literal["proportional"] = option(
        0.2, "part of a mixed batch that is exemplars", gt=0, lt=1
    )

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """A total stands in place of ``per_class``."""
        if values.get("total") is not None and "per_class" not in values:
            return {**values, "per_class": None}
        return values

    def check_combination(self) -> None:
        if (self.per_class is None) == (self.total is None):
            raise ConfigurationError("give either per_class or total (set the other to null)")

    def install(self, assembly: Assembly) -> None:
        from continual_ep.arms.replay_state import memory_state
        from continual_ep.plugins import AwakeRehearsal

        plugin = AwakeRehearsal(**plain_values(self), seed=assembly.seed)
        assembly.add("er", plugin, memory_state(plugin, assembly))
