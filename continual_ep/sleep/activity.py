"""Activities of the awake network: the largest ones, and what reaches a layer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError
from continual_ep.forward_passes import evaluating, evaluation_mode, has_activities, input_of
from continual_ep.sleep.layers import Chain
from continual_ep.synapses import Synapses


def layer_inputs(
    model: nn.Module,
    layer: Synapses,
    x: Tensor,
    forward: Callable[[Tensor], Any] | None = None,
) -> Tensor:
    """What reaches ``layer`` when ``model`` runs on ``x`` in evaluation mode, ``(batch, n_pre)``.

    Random streams are left alone. In a network with a method ``activities(x)`` it is the activity of
    the layer below.

    :param forward: how to run the model, where calling it is not enough.
    """
    owner, number = _owner(model, layer)
    with evaluating(model, x.device):
        inputs = x if owner is model else input_of(owner, forward or model, x)
        if number > 0:
            inputs = owner.activities(inputs)[number - 1]  # type: ignore[operator]
    return inputs.detach().flatten(1)


def _owner(model: nn.Module, layer: Synapses) -> tuple[nn.Module, int]:
    """The module that holds a layer; and of a network with activities, the layer's number in it."""
    for module in model.modules():
        if has_activities(module):
            for number, synapses in enumerate(module.synapses()):  # type: ignore[operator]
                if synapses.weight is layer.weight:
                    return module, number
    for module in model.modules():
        if module._parameters.get("weight") is layer.weight:
            return module, 0
    raise ConfigurationError(f"no module of the model holds the weight {layer.name}")


class ActivityMaxima:
    """Collects, batch by batch, the largest activation of each layer of a model.

    In a network with a method ``activities(x)`` these are the activations; elsewhere the output of each
    synapse layer, which for positive values is the activation of a ReLU. Use as a context manager.
    """

    def __init__(self, model: nn.Module, chains: Sequence[Chain]) -> None:
        self._model = model
        self._members: dict[nn.Module, list[tuple[int, str]]] = {}
        for layer in (layer for chain in chains for layer in chain.layers):
            owner, number = _owner(model, layer)
            self._members.setdefault(owner, []).append((number, layer.name))
        self._largest = {name: 0.0 for members in self._members.values() for _, name in members}
        self._hooks: list[Any] = []
        self._mode = evaluation_mode(model)

    def __enter__(self) -> "ActivityMaxima":
        self._mode.__enter__()
        self._hooks = [
            owner.register_forward_hook(
                lambda module, args, out: self._record(module, args[0], out)
            )
            for owner in self._members
        ]
        return self

    def __exit__(self, *unused: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._mode.__exit__(None, None, None)

    def see(self, x: Tensor, forward: Callable[[Tensor], Any] | None = None) -> None:
        """Take in a batch of inputs, run by ``forward`` where calling the model is not enough."""
        with torch.no_grad():
            if self._model in self._members and has_activities(self._model):
                self._record(self._model, x, None)
            else:
                (forward or self._model)(x)

    def _record(self, owner: nn.Module, x: Tensor, output: Tensor | None) -> None:
        outputs: Any = owner.activities(x) if has_activities(owner) else [output]  # type: ignore[operator]
        for number, name in self._members[owner]:
            self._largest[name] = max(self._largest[name], float(outputs[number].max()))

    def values(self) -> dict[str, float]:
        """By name of the layer, at least 0."""
        return dict(self._largest)
