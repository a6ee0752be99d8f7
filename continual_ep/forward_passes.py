"""Run a model and leave no trace: modes, random states and hooks are as before afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def evaluation_mode(model: nn.Module, device: torch.device | str = "cpu") -> Iterator[None]:
    """Evaluation mode; each module's own mode and all random states come back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model.eval()
        try:
            yield
        finally:
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
