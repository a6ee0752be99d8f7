"""GDumb: a network trained from scratch on the exemplars alone."""

from dataclasses import dataclass

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.options import option


@dataclass(frozen=True)
class GDumb(Mechanism):
    """Greedy sampler and dumb learner, by :class:`~continual_ep.plugins.GDumb`.

    At each experience a class-balanced memory takes in new samples, and the network is trained on it
    alone, from its initial weights. What is kept are samples, labels and the initial weights. Source:
    Prabhu et al. 2020 (doi:10.1007/978-3-030-58536-5_31), whose code trains 128 epochs on MNIST.
    Deviations: a constant learning rate instead of warm restarts, and no CutMix.
    """

    main = "total"
    needs = Needs(labels=True, boundaries=True, samples=True)
    takes = frozenset({"data"})
    # Penalties and averages refer to earlier weights, which are thrown away.
    combines_with = frozenset({"sleep"})
    sources = ("prabhu2020",)

    total: int = option(200, "samples in the memory, equally many of each class", ge=1)
    epochs: int | None = option(
        128, "passes through the memory at each experience; null: training.epochs", ge=1
    )

    def install(self, assembly: Assembly) -> None:
        from continual_ep.arms.replay_state import memory_state
        from continual_ep.plugins.gdumb import GDumb as Plugin

        assembly.epochs = self.epochs or assembly.epochs
        plugin = Plugin(total=self.total, seed=assembly.seed)
        assembly.add("gdumb", plugin, memory_state(plugin, assembly))
