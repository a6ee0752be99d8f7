"""Freeze: after the first experience the read-out alone learns."""

from dataclasses import dataclass

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs


@dataclass(frozen=True)
class FreezeHidden(Mechanism):
    """Frozen hidden layers, by :class:`~continual_ep.plugins.FreezeHidden`.

    All layers but the read-out keep the weights that they have after the first experience; sleep,
    too, then changes the read-out only. Nothing is kept. A common baseline: fixed representation,
    as in Maltoni and Lomonaco 2019 (arXiv:1806.08568).
    """

    needs = Needs(labels=False, boundaries=True, samples=False)
    sources = ("maltoni2019",)

    def install(self, assembly: Assembly) -> None:
        from continual_ep.plugins import FreezeHidden as Plugin
        from continual_ep.plugins.freeze_hidden import hidden_parameters

        hidden_parameters(assembly.model)
        assembly.add("freeze", Plugin())
