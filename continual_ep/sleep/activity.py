"""The largest activation of each layer, which the published gains are made of."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.sleep.layers import Chain


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
        self._training: dict[nn.Module, bool] = {}

    def __enter__(self) -> "ActivityMaxima":
        self._training = {module: module.training for module in self._model.modules()}
        self._model.eval()
        if not self._answers:
            self._watch_layers()
        return self

    def __exit__(self, *unused: object) -> None:
        for hook in self._hooks:
            hook.remove()
        for module, mode in self._training.items():
            module.training = mode

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

    def values(self) -> list[list[float]]:
        """By chain and layer, at least 0."""
        return [[self._largest[layer.name] for layer in chain.layers] for chain in self._chains]
