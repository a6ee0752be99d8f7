"""Seed, save and restore the global random generators.

Avalanche shuffles with torch's global generator and draws from Python's and NumPy's, so a cell seeds
them, and saves them in its checkpoint. Afterwards a caller from Python gets them back as they were.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from continual_ep.seeding import seed_from


def seed_everything(seed: int, name: str) -> None:
    """Seed all global generators from a seed and a purpose."""
    number = seed_from(f"{name}:{seed}")
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
    """Set all global generators to ``states``."""
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
    """Restore the global generators at exit, whatever is drawn inside."""
    states = random_states()
    try:
        yield
    finally:
        restore_random_states(states)
