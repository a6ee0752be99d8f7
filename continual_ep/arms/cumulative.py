"""Cumulative training: each experience is learned with all data of the earlier ones."""

from dataclasses import dataclass

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs


@dataclass(frozen=True)
class Cumulative(Mechanism):
    """Train each experience on its data and those of all before it (Avalanche's ``Cumulative``).

    An upper bound of replay: nothing is forgotten by lack of data. An epoch is one pass over all data so
    far, which is also what is kept.
    """

    needs = Needs(labels=True, boundaries=True, samples=True)
    takes = frozenset({"trainer", "data"})
    combines_with = frozenset({"sleep"})

    def install(self, assembly: Assembly) -> None:
        from avalanche.training.supervised import Cumulative as CumulativeTraining

        from continual_ep.arms.replay_state import CumulativeState

        state = CumulativeState(assembly.benchmark.train_stream)
        assembly.trainer = CumulativeTraining
        assembly.finishers.append(state.connect)
        assembly.states["cumulative"] = state
