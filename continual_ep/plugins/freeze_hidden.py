"""Freeze: after the first experience the read-out alone learns."""

from collections.abc import Mapping
from typing import Any

from avalanche.training.plugins import SupervisedPlugin
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from continual_ep.errors import CheckpointError, ConfigurationError
from continual_ep.streams.experiences import part_of


class FreezeHidden(SupervisedPlugin):
    """Lets all layers but the read-out keep their weights after the first experience.

    The read-out is the last layer of ``synapses()`` (networks of this package), in other modules
    the last ``nn.Linear``. Layers that do not learn do not change in sleep either. Nothing is kept.

    :raises ConfigurationError: in training, for a model without a layer below its read-out.
    """

    supports_distributed = False

    def __init__(self) -> None:
        super().__init__()
        self.frozen = False

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Freeze the model of a restored run; refuse a model that has nothing to freeze."""
        hidden = hidden_parameters(strategy.model)
        if self.frozen:
            _freeze(hidden)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Keep the running statistics of frozen normalisation layers."""
        if self.frozen:
            for module in strategy.model.modules():
                if isinstance(module, _NormBase):
                    module.eval()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Freeze after the first experience."""
        if not self.frozen and part_of(strategy.experience).is_last:
            self.frozen = True
            _freeze(hidden_parameters(strategy.model))

    def state_dict(self) -> dict[str, Any]:
        """Whether the hidden layers are frozen."""
        return {"frozen": self.frozen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:raises CheckpointError: for a damaged state; nothing changes then."""
        if not isinstance(state.get("frozen"), bool):
            raise CheckpointError(f"the state of FreezeHidden is damaged: {state!r}")
        self.frozen = state["frozen"]


def hidden_parameters(model: nn.Module) -> list[nn.Parameter]:
    """All parameters but those of the read-out.

    :raises ConfigurationError: for a model without a read-out or without a layer below it.
    """
    synapses: Any = getattr(model, "synapses", None)
    if synapses is not None:
        last = synapses()[-1]
        readout = [p for p in (last.weight, last.bias, last.feedback) if p is not None]
    else:
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        readout = list(linear[-1].parameters()) if linear else []
    hidden = [p for p in model.parameters() if all(p is not other for other in readout)]
    if not readout or not hidden:
        missing = "hidden layer" if readout else "linear read-out"
        raise ConfigurationError(f"freeze: {type(model).__name__} has no {missing}")
    return hidden


def _freeze(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(False)
        # An optimizer moves what has a gradient.
        parameter.grad = None
