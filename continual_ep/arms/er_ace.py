"""Experience replay with asymmetric cross-entropy: new samples do not push old classes down."""

from dataclasses import dataclass
from typing import Any

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.learning import NeuromodulatedEquilibriumLearning
from continual_ep.options import option


@dataclass(frozen=True)
class AsymmetricReplay(Mechanism):
    r"""Experience replay with asymmetric cross-entropy (ER-ACE).

    .. math:: \mathcal L = \tfrac12 \left( \ell_{C(y)}(f(x), y) + \ell(f(x'), y') \right)

    The loss of new samples sees the outputs of their own classes :math:`C(y)` alone, that of exemplars
    all. Source: Caccia et al. 2022 (arXiv:2104.05025); as many exemplars as new samples in a step.
    Deviations, as in Avalanche's ``ER_ACE``: the memory takes in the new classes before they are
    learned, the first experience has the ordinary loss, and the losses are averaged. Unlike there,
    the strategy's criterion is used: with squared error the outputs of other classes have no error.
    """

    main = "total"
    needs = Needs(labels=True, boundaries=True, samples=True)
    takes = frozenset({"trainer", "data", "loss"})
    sources = ("caccia2022",)

    total: int = option(200, "exemplars kept in all, equally many of each class", ge=1)
    batch_size: int | None = option(None, "exemplars in a step; null: training.batch_size", ge=1)

    def refusal(self, rule: Any, network: Any) -> str | None:
        if isinstance(rule, NeuromodulatedEquilibriumLearning):
            return "its reward is for the choice among all classes, not among those of a loss"
        return None

    def install(self, assembly: Assembly) -> None:
        from continual_ep.arms.replay_state import exemplars_state
        from continual_ep.arms.replay_strategies import AsymmetricReplayStrategy
        from continual_ep.plugins.exemplars import ExemplarMemory

        memory = ExemplarMemory(total=self.total, seed=assembly.seed)
        assembly.trainer = AsymmetricReplayStrategy
        assembly.trainer_options |= {
            "memory": memory,
            "replay_batch": self.batch_size,
            "seed": assembly.seed,
        }
        assembly.states["er-ace"] = exemplars_state(memory, assembly)
