"""One way from a seed and a name to a random generator.

Each purpose draws from a generator of its own, so that no draw shifts another's, and torch's global
generator is left alone.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from continual_ep.errors import CheckpointError


def seed_from(key: str, *, length: int = 8) -> int:
    """A seed below :math:`2^{63}` from a text that names a seed and a purpose, such as ``"weights:3"``.

    :param length: bytes of the digest; 7 where results of earlier versions depend on it.
    """
    digest = hashlib.sha256(key.encode()).digest()
    number = int.from_bytes(digest[:length], "big")
    return number >> 1 if length == 8 else number


def generator_from(key: str, *, length: int = 8) -> torch.Generator:
    """A CPU generator seeded by :func:`seed_from`."""
    return torch.Generator().manual_seed(seed_from(key, length=length))


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
