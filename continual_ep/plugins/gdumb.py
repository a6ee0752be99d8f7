"""GDumb: a network trained from scratch on a class-balanced memory, and on nothing else."""

from collections.abc import Mapping
from typing import Any

from avalanche.core import SupervisedPlugin
from torch import Tensor

from continual_ep.plugins.exemplars import ExemplarMemory


class GDumb(SupervisedPlugin):
    """Put the model back to its initial weights and train it on the memory alone.

    At the start of each experience the memory takes in samples of the new classes, as many of each
    class as of the others; the network is then trained on it as if it were the only data. Source:
    Prabhu et al. 2020 (doi:10.1007/978-3-030-58536-5_31). Avalanche's plugin puts a copy in the
    place of the model, which whoever holds the model does not see; this one changes its weights, and
    clears the state of the optimizer.

    :param total: samples in the memory.
    :param seed: seeds their choice.
    """

    supports_distributed = False

    def __init__(self, *, total: int = 200, seed: int = 0) -> None:
        super().__init__()
        self.memory = ExemplarMemory(total=total, seed=seed)
        #: The model's state before any training; empty until then.
        self.initial: dict[str, Tensor] = {}

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        if not self.initial:
            state = strategy.model.state_dict()
            self.initial = {name: value.detach().clone() for name, value in state.items()}
            return
        strategy.model.load_state_dict(self.initial)
        strategy.optimizer.state.clear()

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        self.memory.connect(strategy.experience.origin_stream)
        self.memory.post_adapt(strategy, strategy.experience)
        strategy.adapted_dataset = self.memory.buffer.train()

    def state_dict(self) -> dict[str, Any]:
        """Which samples are in the memory, and the initial weights."""
        return {**self.memory.state_dict(), "initial": dict(self.initial)}

    def load_state_dict(self, state: Mapping[str, Any], benchmark: Any = None) -> None:
        """Go on with a stored memory.

        :param benchmark: as of :meth:`AwakeRehearsal.load_state_dict`.
        :raises CheckpointError: a damaged state, or one saved with other options.
        """
        self.memory.load_state_dict(state, benchmark)
        self.initial = dict(state["initial"])
