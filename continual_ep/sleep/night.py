"""A night of sleep: choose an engine, run it, and say what happened."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from continual_ep.sleep.chain import ChainState
from continual_ep.sleep.diary import SleepDiary
from continual_ep.sleep.engines import ENGINES, triton
from continual_ep.sleep.parameters import SleepParameters

Array = NDArray[Any]


def run_sleep(
    chains: Sequence[ChainState],
    parameters: SleepParameters,
    steps: int,
    device: torch.device | str = "cpu",
) -> SleepDiary:
    """Run ``steps`` steps, or until no unit has spiked for ``parameters.quiet_steps`` steps.

    :param chains: of one model; their weights change in place.
    :param device: of the model; an engine for GPUs runs on it if it can.
    """
    before = _weights(chains)
    engine = next(e for e in ENGINES if e.can_run(chains, parameters, device))
    counts = engine.run(chains, parameters, steps, device)
    return _diary(chains, parameters, counts, before, steps)


def run_batched(
    chains: Sequence[ChainState],
    parameters: Sequence[SleepParameters],
    steps: int,
    device: torch.device | str,
) -> list[SleepDiary]:
    """The nights of several networks of one shape on a GPU, one chain and one set of parameters each."""
    before = [_weights([chain]) for chain in chains]
    counts = triton.run_batched(chains, parameters, steps, device)
    return [
        _diary([chain], constants, count, old, steps)
        for chain, constants, count, old in zip(chains, parameters, counts, before, strict=True)
    ]


def _weights(chains: Sequence[ChainState]) -> list[Array]:
    return [layer.weight().copy() for chain in chains for layer in chain.layers]


def _diary(
    chains: Sequence[ChainState],
    parameters: SleepParameters,
    counts: Array,
    before: Sequence[Array],
    planned: int,
) -> SleepDiary:
    layers = [layer for chain in chains for layer in chain.layers]
    pairs = zip(layers, before, strict=True)
    change = [float(np.linalg.norm(layer.weight() - old)) for layer, old in pairs]
    norms = [float(np.linalg.norm(old)) for old in before]
    return SleepDiary(
        layers=tuple(layer.name for layer in layers),
        counts=torch.from_numpy(counts),
        unit_counts=tuple(torch.from_numpy(c) for chain in chains for c in chain.unit_counts),
        weight_change=tuple(change),
        relative_change=tuple(c / n if n else 0.0 for c, n in zip(change, norms, strict=True)),
        thresholds=tuple(float(beta) for chain in chains for beta in chain.thresholds),
        gains=tuple(float(gain) for chain in chains for gain in chain.gains),
        asked_steps=planned,
        quiet_steps=parameters.quiet_steps or 1000,
    )
