"""Bias correction: new classes' outputs are lowered by data of the experience alone."""

from dataclasses import dataclass

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.options import option, plain_values


@dataclass(frozen=True)
class BiasCorrection(Mechanism):
    """An offset for each class, by :class:`~continual_ep.plugins.BiasCorrection`.

    Formula and deviation stand at the plugin. The offset is chosen after each experience and its
    night, and acts in evaluation only. Kept: one number for each class. After Wu et al. 2019
    (arXiv:1905.13260). The default cost is the lower end of the range in which it was tried (0.1 to
    0.2).
    """

    main = "cost"
    needs = Needs(labels=True, boundaries=True, samples=False)
    takes = frozenset({"answers"})
    sources = ("wu2019",)

    cost: float = option(0.1, "share of the new training samples that is given up", gt=0, lt=1)
    samples: int = option(1000, "of the experience that are looked at", ge=1)

    def install(self, assembly: Assembly) -> None:
        from continual_ep.plugins import BiasCorrection as Plugin

        plugin = Plugin(**plain_values(self), seed=assembly.seed)
        plugin.attach(assembly.model)
        assembly.add("bias-correction", plugin)
