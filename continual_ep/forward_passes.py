"""Run a model and leave no trace: modes, random states and hooks are as before afterwards."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError


@contextmanager
def evaluation_mode(model: nn.Module, device: torch.device | str = "cpu") -> Iterator[None]:
    """Evaluation mode; each module's own mode and all random states come back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    device = torch.device(device)
    others = random.getstate(), np.random.get_state()  # of data sets that are read meanwhile
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model.eval()
        try:
            yield
        finally:
            random.setstate(others[0])
            np.random.set_state(others[1])
            # Module by module: a part that was frozen in evaluation mode stays so.
            for module, mode in modes:
                module.training = mode


@contextmanager
def evaluating(model: nn.Module, device: torch.device | str = "cpu") -> Iterator[None]:
    """:func:`evaluation_mode` without gradients."""
    with evaluation_mode(model, device), torch.no_grad():
        yield


def input_of(module: nn.Module, forward: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """The input of a module when a model that holds it runs on ``x``; of several calls the last."""
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        forward(x)
    finally:
        hook.remove()
    return seen[-1]


def penultimate(
    model: nn.Module, x: Tensor, forward: Callable[[Tensor], Any] | None = None
) -> Tensor:
    """The activity of the last hidden layer, ``(batch, n)``.

    In networks with a method ``activities(x)`` that below the read-out (recurrent networks: of the
    free phase); in other models the input of the last linear layer, or network with activities,
    that runs. A model without a hidden layer gives its input.

    :param forward: how to run the model, where calling it is not enough.
    :raises ConfigurationError: for a model without a linear layer.
    """
    if has_activities(model):
        activities: list[Tensor] = cast(Any, model).activities(x)
        return activities[-2].flatten(1) if len(activities) > 1 else x.flatten(1)
    seen: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        module.register_forward_pre_hook(lambda m, inputs: seen.append((m, inputs[0])))
        for module in model.modules()
        if isinstance(module, nn.Linear) or has_activities(module)
    ]
    try:
        (forward or model)(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ConfigurationError(
            f"no linear layer runs in {type(model).__name__}, so its last hidden layer is not known: "
            "pass features=lambda model, x: ... that returns (batch, n)."
        )
    head, inputs = seen[-1]
    return penultimate(head, inputs) if has_activities(head) else inputs.flatten(1)


def has_activities(module: nn.Module) -> bool:
    """Whether a module gives the activities of its layers, as the networks of this package do."""
    return callable(getattr(module, "activities", None))
