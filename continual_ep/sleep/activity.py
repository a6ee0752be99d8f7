"""Activities of the awake network: the largest ones, and what reaches a layer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError
from continual_ep.sleep.layers import Chain
from continual_ep.synapses import Synapses


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """``model`` in evaluation mode; each module's own mode comes back afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


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
    seen: list[Tensor] = []
    hook = owner.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    devices = [x.device] if x.is_cuda else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices), evaluation_mode(model):
            (forward or model)(x)
            inputs = seen[0]
            if number > 0:
                inputs = owner.activities(inputs)[number - 1]  # type: ignore[operator]
    finally:
        hook.remove()
    return inputs.detach().flatten(1)


def _owner(model: nn.Module, layer: Synapses) -> tuple[nn.Module, int]:
    """The module that holds a layer; and of a network with activities, the layer's number in it."""
    for module in model.modules():
        if callable(getattr(module, "activities", None)):
            for number, synapses in enumerate(module.synapses()):  # type: ignore[operator]
                if synapses.weight is layer.weight:
                    return module, number
    for module in model.modules():
        if module._parameters.get("weight") is layer.weight:
            return module, 0
    raise ConfigurationError(f"no module of the model holds the weight {layer.name}")


class ActivityMaxima:
    """Collects, batch by batch, the largest activation of each layer of a model.

    A network with a method ``activities(x)`` answers by itself; for any other module it is the
    output of each synapse layer that counts, which for positive values is the activation of a ReLU.
    Use as a context manager.
    """

    def __init__(self, model: nn.Module, chains: Sequence[Chain]) -> None:
        self._model, self._chains = model, chains
        self._largest = {layer.name: 0.0 for chain in chains for layer in chain.layers}
        self._answers = callable(getattr(model, "activities", None))
        self._hooks: list[Any] = []
        self._mode = evaluation_mode(model)

    def __enter__(self) -> "ActivityMaxima":
        self._mode.__enter__()
        if not self._answers:
            self._watch_layers()
        return self

    def __exit__(self, *unused: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._mode.__exit__(None, None, None)

    def _watch_layers(self) -> None:
        owners = {m._parameters.get("weight"): m for m in self._model.modules()}
        for name, module in self._model.named_modules():
            if callable(getattr(module, "activities", None)):
                owners.update({layer.weight: None for layer in module.synapses()})  # type: ignore[operator]
                names = [f"{name}.{layer.name}" for layer in module.synapses()]  # type: ignore[operator]
                self._hooks.append(module.register_forward_hook(self._network_recorder(names)))
        for chain in self._chains:
            for layer in chain.layers:
                if owners[layer.weight] is not None:
                    hook = self._recorder(layer.name)
                    self._hooks.append(owners[layer.weight].register_forward_hook(hook))  # type: ignore[union-attr]

    def _network_recorder(self, names: Sequence[str]) -> Callable[[nn.Module, Any, Tensor], None]:
        """For a network within the model that answers by itself."""

        def record(module: nn.Module, args: Any, output: Tensor) -> None:
            for name, activity in zip(names, module.activities(args[0]), strict=True):  # type: ignore[operator]
                self._largest[name] = max(self._largest[name], float(activity.max()))

        return record

    def _recorder(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def record(module: nn.Module, args: Any, output: Tensor) -> None:
            self._largest[name] = max(self._largest[name], float(output.max()))

        return record

    def see(self, x: Tensor, forward: Callable[[Tensor], Any] | None = None) -> None:
        """Take in a batch of inputs, run by ``forward`` where calling the model is not enough."""
        with torch.no_grad():
            if not self._answers:
                (forward or self._model)(x)
                return
            activities = self._model.activities(x)  # type: ignore[operator]
        names = [layer.name for chain in self._chains for layer in chain.layers]
        for name, activity in zip(names, activities, strict=True):
            self._largest[name] = max(self._largest[name], float(activity.max()))

    def values(self) -> dict[str, float]:
        """By name of the layer, at least 0."""
        return dict(self._largest)
