"""The global random generators: borrowed for a cell, saved in its checkpoint, given back after it.

Avalanche shuffles with torch's global generator and draws with Python's and numpy's, so a cell needs
them. Whoever calls us from Python finds them as they were.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def named_seed(seed: int, name: str) -> int:
    """A seed of its own for each (seed, purpose), below 2^63."""
    digest = hashlib.sha256(f"{name}:{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_everything(seed: int, name: str) -> None:
    """Seeds all global generators from one seed and a purpose."""
    number = named_seed(seed, name)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)  # CUDA's generators as well


def random_states() -> dict[str, Any]:
    """The states of all global generators, as tensors and numbers (no pickled objects)."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "kind": str(kind),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Puts all global generators back to ``states``."""
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    python = states["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    numpys = states["numpy"]
    keys = numpys["keys"].numpy().astype(np.uint32)
    np.random.set_state(
        (numpys["kind"], keys, numpys["position"], numpys["has_gauss"], numpys["cached"])
    )


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Whatever happens inside, the global generators are afterwards as before."""
    states = random_states()
    try:
        yield
    finally:
        restore_random_states(states)
