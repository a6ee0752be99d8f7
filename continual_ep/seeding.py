"""One way from a seed and a name to a random generator.

Each purpose draws from a generator of its own, so that no draw shifts another's, and torch's global
generator is left alone.
"""

import hashlib

import torch


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
