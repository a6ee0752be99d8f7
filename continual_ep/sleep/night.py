"""A night of sleep: choose an engine, run it, and say what happened."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from continual_ep.sleep.chain import ChainState
from continual_ep.sleep.diary import SleepDiary
from continual_ep.sleep.engines import ENGINES, triton
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.recording import SpikeRecorder

Array = NDArray[Any]


def run_sleep(
    chains: Sequence[ChainState],
    parameters: SleepParameters,
    steps: int,
    device: torch.device | str = "cpu",
    recorder: SpikeRecorder | None = None,
) -> SleepDiary:
    """Run ``steps`` steps, or until no unit has spiked for ``parameters.quiet_steps`` steps.

    :param chains: of one model; their weights change in place.
    :param device: of the model; an engine for GPUs runs on it if it can.
    :param recorder: keeps which units spike when.
    """
    before = _weights(chains)
    engine = next(e for e in ENGINES if e.can_run(chains, parameters, device))
    if recorder is None:
        counts = engine.run(chains, parameters, steps, device)
    else:
        run = partial(engine.run, chains, parameters, device=device)
        counts = recorder.run(run, chains, steps, parameters.quiet_steps)
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
    olds = iter(before)
    names: list[str] = []
    change: list[float] = []
    norms: list[float] = []
    for chain in chains:
        frozen = [] if chain.below is None else chain.below.names
        names += [*frozen, *(layer.name for layer in chain.layers)]
        change += [0.0] * len(frozen)
        norms += [1.0] * len(frozen)
        for layer in chain.layers:
            old = next(olds)
            change.append(float(np.linalg.norm(layer.weight() - old)))
            norms.append(float(np.linalg.norm(old)))
    parts = [part for c in chains for part in ((c,) if c.below is None else (c.below, c))]
    return SleepDiary(
        layers=tuple(names),
        counts=torch.from_numpy(_with_frozen_layers(chains, counts)),
        unit_counts=tuple(torch.from_numpy(c) for part in parts for c in part.unit_counts),
        weight_change=tuple(change),
        relative_change=tuple(c / n if n else 0.0 for c, n in zip(change, norms, strict=True)),
        thresholds=tuple(float(beta) for part in parts for beta in part.thresholds),
        gains=tuple(float(gain) for part in parts for gain in part.gains),
        asked_steps=planned,
        quiet_steps=parameters.quiet_steps or 1000,
    )


def _with_frozen_layers(chains: Sequence[ChainState], counts: Array) -> Array:
    """The spikes of each step with those of frozen layers, which engines take for the input."""
    inputs, columns, place = counts[:, 0].copy(), [], 1
    for chain in chains:
        if chain.below is not None:
            below = chain.below.counts.astype(np.int32)
            inputs += below[:, 0] - below[:, -1]
            columns.append(below[:, 1:-1])
        columns.append(counts[:, place : place + len(chain.layers)])
        place += len(chain.layers)
    return np.concatenate([inputs[:, None], *columns], axis=1)
