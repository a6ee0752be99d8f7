"""Checkpoints: state dicts of everything, one file, no pickled objects.

Avalanche's own checkpoint pickles the strategy whole, which fails for torch's optimizers today and ties
a file to the code that wrote it. Here only tensors, numbers, texts, lists and dictionaries are stored,
and loading allows nothing else (``weights_only=True``).
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from avalanche.training.templates import SupervisedTemplate

from continual_ep.atomic_files import write_atomically
from continual_ep.errors import CheckpointError
from continual_ep.experiments.randomness import random_states, restore_random_states

FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replaces the file at ``path`` in one step.

    :raises CheckpointError: for a state that could not be loaded again, before anything is replaced.
    """

    def write(stream: Any) -> None:
        torch.save({"format": FORMAT, **state}, stream)
        stream.flush()
        _load(Path(stream.name))

    write_atomically(path, write)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state at ``path``; None when there is no such file.

    :raises CheckpointError: for a file that is damaged or of another format; it is left as it is.
    """
    return _load(path) if path.exists() else None


def _load(path: Path) -> dict[str, Any]:
    try:
        # torch.load does not verify the checksums that torch.save has written; zipfile does.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"checksum of {damaged} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"the checkpoint {path} is damaged ({reason}). It was left as it is. To train this part "
            "anew, move it away and give the same command again"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(
            f"the checkpoint {path} has format {found}; this version reads format {FORMAT}. Move it "
            "away to train this part anew, or use the version that wrote it"
        )
    return state


def strategy_state(
    strategy: SupervisedTemplate, plugins: dict[str, Any], experiences: int
) -> dict[str, Any]:
    """Everything that the rest of the stream depends on, after ``experiences`` experiences."""
    return {
        "experiences": experiences,
        "model": strategy.model.state_dict(),
        "optimizer": strategy.optimizer.state_dict(),
        "clock": {key: int(value) for key, value in vars(strategy.clock).items()},
        "plugins": {name: plugin.state_dict() for name, plugin in plugins.items()},
        "random": random_states(),
    }


def restore_strategy(
    strategy: SupervisedTemplate, plugins: dict[str, Any], state: dict[str, Any]
) -> int:
    """Puts a fresh strategy where the saved one stood.

    :returns: the number of experiences that are done.
    """
    strategy.model.load_state_dict(state["model"])
    # What Avalanche does at the first train(): it puts every parameter into the optimizer and clears
    # its state. Done here, it cannot clear the momentum that is loaded next.
    strategy.make_optimizer(reset_optimizer_state=True)
    strategy.optimizer.load_state_dict(state["optimizer"])
    for key, value in state["clock"].items():
        setattr(strategy.clock, key, value)
    for name, plugin in plugins.items():
        plugin.load_state_dict(state["plugins"][name])
    restore_random_states(state["random"])
    return int(state["experiences"])
