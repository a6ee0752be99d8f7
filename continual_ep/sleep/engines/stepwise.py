"""Step by step in NumPy: runs every night, and touches only the synapses of units that spike.

It computes what :mod:`continual_ep.sleep.reference` computes, from the columns of the active inputs
on the way up and the rows of the units that spiked for the weight changes.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from continual_ep.errors import warn_user
from continual_ep.progress import show_progress
from continual_ep.sleep.chain import ChainState
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.simulation import Signal, pooled, spikes_at

Array = NDArray[Any]

#: Seconds of a night after which its length is estimated, and from which on it is announced.
ESTIMATE_AFTER, LONG = 1.0, 10.0


def can_run(
    chains: Sequence[ChainState], parameters: SleepParameters, device: torch.device | str
) -> bool:
    """Always."""
    return True


def run(
    chains: Sequence[ChainState],
    parameters: SleepParameters,
    steps: int,
    device: torch.device | str = "cpu",
) -> Array:
    """All chains together, see :class:`continual_ep.sleep.engines.Engine`."""
    counts = np.zeros((steps, 1 + sum(len(chain.layers) for chain in chains)), np.int32)
    silent = 0
    for step in _watched(steps):
        column = 1
        for chain in chains:
            spiked, *layers = _step(chain, parameters)
            counts[step, 0] += spiked
            counts[step, column : column + len(layers)] = layers
            column += len(layers)
        if parameters.quiet_steps is not None:
            silent = 0 if counts[step, 1:].any() else silent + 1
            if silent == parameters.quiet_steps:
                return counts[: step + 1].copy()
    return counts


def _watched(steps: int) -> Iterator[int]:
    """The steps of a night; one that takes long says so in its first second, then how far it is."""
    begin, show = time.monotonic(), None
    with ExitStack() as stack:
        for step in range(steps):
            yield step
            if show is not None:
                show(step + 1)
            elif (elapsed := time.monotonic() - begin) >= ESTIMATE_AFTER:
                seconds = elapsed / (step + 1) * steps
                if seconds >= LONG:
                    warn_user(
                        f"this night of {steps:,} steps takes about {seconds:.0f} s: layers are "
                        "simulated step by step, as changing kernels (kernels=True), feedback, "
                        "quiet_steps or a plasticity of your own need it"
                    )
                    bar = show_progress("night", "steps", steps, step + 1, every=10.0)
                    show = stack.enter_context(bar)
                begin = math.inf  # estimated once


def _step(chain: ChainState, parameters: SleepParameters) -> Iterable[int]:
    """One step; the number of spikes in the input and in each layer."""
    below = next(chain.spikes)
    counts = [len(below.active)]
    for number, layer in enumerate(chain.layers):
        below = pooled(below, layer.pooling, chain.dtype)
        membrane = chain.membranes[number]
        membrane *= parameters.leak
        _excite(chain, number, membrane, below, parameters)
        fired = (membrane >= chain.thresholds[number]).nonzero()[0]
        if len(fired):
            if chain.plastic[number]:
                layer.learn(fired, below)
            membrane[fired] = 0.0
            chain.unit_counts[number][fired] += 1
        chain.fired[number] = fired
        counts.append(len(fired))
        below = spikes_at(fired, layer.units)
    return counts


def _excite(
    chain: ChainState, number: int, membrane: Array, below: Signal, parameters: SleepParameters
) -> None:
    """Add the currents of this step to the membranes of a layer, in place."""
    gain, above = chain.gains[number], number + 1
    if len(below.active):
        membrane += gain * chain.layers[number].current(below)
    if parameters.biases == "current":
        membrane += gain * chain.constants[number]
    if parameters.feedback and above < len(chain.layers) and len(chain.fired[above]):
        # Layers follow upwards, so the layer above still holds the spikes of the step before.
        if not chain.layers[above].pooling:
            current = chain.layers[above].feedback_current(chain.fired[above])
            if current is not None:
                membrane += gain * current
