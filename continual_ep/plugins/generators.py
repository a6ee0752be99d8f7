"""Restore random generators of plugins from checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch

from continual_ep.errors import CheckpointError


def restored_generator(state: Mapping[str, Any], plugin: str) -> torch.Generator:
    """A CPU generator in the saved state ``state["generator"]``.

    :param plugin: its name, for the message.
    :raises CheckpointError: for anything but the state of a generator.
    """
    stored = state.get("generator")
    if not isinstance(stored, torch.Tensor) or stored.dtype != torch.uint8:
        raise CheckpointError(f"the state of {plugin} is damaged: 'generator' is not there")
    generator = torch.Generator()
    try:
        generator.set_state(stored.cpu())
    except RuntimeError as error:
        raise CheckpointError(
            f"the state of {plugin} is damaged: 'generator' is no state of a generator ({error})"
        ) from error
    return generator
