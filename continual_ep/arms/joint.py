"""Joint training: all experiences at once, the upper bound."""

from dataclasses import dataclass

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs, Stateful


@dataclass(frozen=True)
class Joint(Mechanism):
    """Train all experiences at once, as one shuffled data set (Avalanche's ``JointTraining``).

    Not a continual learner but the usual upper bound. An epoch is one pass over all data; what is kept
    is the whole stream. A killed run starts again, as there is only one training.
    """

    needs = Needs(labels=True, boundaries=False, samples=True)
    takes = frozenset({"trainer", "data"})
    combines_with = frozenset({"sleep"})

    def install(self, assembly: Assembly) -> None:
        from avalanche.training.supervised import JointTraining

        from continual_ep.arms.replay_state import samples_bytes

        def kept() -> int:
            return sum(samples_bytes(each.dataset) for each in assembly.benchmark.train_stream)

        assembly.trainer = JointTraining
        assembly.whole_stream = True
        assembly.states["joint"] = Stateful(dict, lambda state: None, kept)
