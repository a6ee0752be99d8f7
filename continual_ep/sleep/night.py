"""A night of sleep: the fast engines beside :mod:`continual_ep.sleep.reference`.

They do what the reference does, but touch only the synapses of units that spike: on the way in
those of the active inputs, on the way back those of the units that fired. Step by step here; layer by
layer, where that comes to the same, in :mod:`continual_ep.sleep.event_driven`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from continual_ep.sleep.diary import SleepDiary
from continual_ep.sleep.event_driven import (
    Events,
    can_sleep_layer_by_layer,
    sleep_layer_by_layer,
)
from continual_ep.sleep.gpu_night import can_sleep_on_device, sleep_on_device
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.sleepers import Signal, Sleeper, relayed, spikes_at

Array = NDArray[Any]


@dataclass(eq=False)
class SleepingChain:
    """A chain during one night.

    :param spikes: of the input, step after step.
    :param gains: of the synaptic currents, by layer; :param constants: constant currents.
    :param plastic: which layers change.
    """

    sleepers: list[Sleeper]
    spikes: "SpikeTrain"
    thresholds: Sequence[float]
    gains: Sequence[float]
    constants: Sequence[Array | float]
    plastic: Sequence[bool]
    dtype: Any

    def __post_init__(self) -> None:
        self.membranes = [np.zeros(sleeper.units, self.dtype) for sleeper in self.sleepers]
        self.unit_counts = [np.zeros(sleeper.units, np.int64) for sleeper in self.sleepers]
        self.fired: list[Array] = [np.zeros(0, np.intp) for _ in self.sleepers]

    def step(self, parameters: SleepParameters) -> Iterable[int]:
        """One step; the number of spikes in the input and in each layer."""
        below = next(self.spikes)
        counts = [len(below.active)]
        for layer, sleeper in enumerate(self.sleepers):
            if sleeper.relays:
                below = relayed(below, sleeper.relays, self.dtype)
            membrane = self.membranes[layer]
            membrane *= parameters.leak
            self._excite(layer, membrane, below, parameters)
            fired = (membrane >= self.thresholds[layer]).nonzero()[0]
            if len(fired):
                if self.plastic[layer]:
                    sleeper.learn(fired, below)
                membrane[fired] = 0.0
                self.unit_counts[layer][fired] += 1
            self.fired[layer] = fired
            counts.append(len(fired))
            below = spikes_at(fired, sleeper.units)
        return counts

    def _excite(
        self, layer: int, membrane: Array, below: Signal, parameters: SleepParameters
    ) -> None:
        """Add the currents of this step to the membranes, in place."""
        if len(below.active):
            membrane += self.gains[layer] * self.sleepers[layer].current(below)
        if parameters.biases == "current":
            membrane += self.gains[layer] * self.constants[layer]
        above = layer + 1
        if parameters.feedback and above < len(self.sleepers) and len(self.fired[above]):
            # Layer by layer upwards: the layer above still holds the spikes of the step before.
            if not self.sleepers[above].relays:
                current = self.sleepers[above].sent_back(self.fired[above])
                if current is not None:
                    membrane += self.gains[layer] * current


def sleep_through(
    chains: Sequence[SleepingChain],
    parameters: SleepParameters,
    steps: int,
    device: torch.device | str = "cpu",
) -> SleepDiary:
    """Sleep for ``steps`` steps, or until nobody has fired for ``parameters.quiet_steps`` steps.

    The weights of the chains' sleepers change; nothing else does.

    :param device: of the network; nights that a GPU knows how to sleep are slept there.
    """
    if len(chains) == 1 and can_sleep_on_device(chains, [parameters], device):
        return sleep_together(chains, [parameters], steps, device)[0]
    before = [sleeper.weight().copy() for chain in chains for sleeper in chain.sleepers]
    counts = np.zeros((steps, 1 + len(before)), np.int32)
    slept = steps
    if all(can_sleep_layer_by_layer(chain, parameters) for chain in chains):
        column = 1
        for chain in chains:
            spiked, *layers = sleep_layer_by_layer(chain, parameters, steps)
            counts[:, 0] += spiked.astype(np.int32)
            counts[:, column : column + len(layers)] = np.stack(layers, axis=1)
            column += len(layers)
    else:
        slept = _sleep_step_by_step(chains, parameters, counts)
    return _diary(chains, parameters, counts[:slept].copy(), before, steps)


def sleep_together(
    chains: Sequence[SleepingChain],
    parameters: Sequence[SleepParameters],
    steps: int,
    device: torch.device | str,
) -> list[SleepDiary]:
    """The nights of several networks of one shape on a GPU, each a chain with parameters of its own."""
    before = [[sleeper.weight().copy() for sleeper in chain.sleepers] for chain in chains]
    counted = sleep_on_device(chains, parameters, steps, device)
    return [
        _diary([chain], own, np.stack(counts, axis=1).astype(np.int32), old, steps)
        for chain, own, counts, old in zip(chains, parameters, counted, before, strict=True)
    ]


def _sleep_step_by_step(
    chains: Sequence[SleepingChain], parameters: SleepParameters, counts: Array
) -> int:
    """All chains together; fills ``counts`` and returns the number of steps slept."""
    silent = 0
    for step in range(len(counts)):
        column = 1
        for chain in chains:
            spiked, *layers = chain.step(parameters)
            counts[step, 0] += spiked
            counts[step, column : column + len(layers)] = layers
            column += len(layers)
        if parameters.quiet_steps is not None:
            silent = 0 if counts[step, 1:].any() else silent + 1
            if silent == parameters.quiet_steps:
                return step + 1
    return len(counts)


def _diary(
    chains: Sequence[SleepingChain],
    parameters: SleepParameters,
    counts: Array,
    before: Sequence[Array],
    asked: int,
) -> SleepDiary:
    sleepers = [sleeper for chain in chains for sleeper in chain.sleepers]
    pairs = list(zip(sleepers, before, strict=True))
    change = [float(np.linalg.norm(sleeper.weight() - old)) for sleeper, old in pairs]
    norms = [float(np.linalg.norm(old)) for old in before]
    return SleepDiary(
        layers=tuple(sleeper.name for sleeper in sleepers),
        counts=torch.from_numpy(counts),
        unit_counts=tuple(torch.from_numpy(c) for chain in chains for c in chain.unit_counts),
        weight_change=tuple(change),
        relative_change=tuple(c / n if n else 0.0 for c, n in zip(change, norms, strict=True)),
        thresholds=tuple(float(beta) for chain in chains for beta in chain.thresholds),
        gains=tuple(float(gain) for chain in chains for gain in chain.gains),
        asked_steps=asked,
        quiet_steps=parameters.quiet_steps or 1000,
    )


class SpikeTrain(Iterator[Signal]):
    """The spikes of the input, step after step, or many steps at once.

    :param chunks: ``(steps, n)`` each, one after the other.
    """

    def __init__(self, chunks: Iterable[NDArray[np.bool_]]) -> None:
        self._chunks = iter(chunks)
        self._starts: Array = np.zeros(1, np.int64)
        self._units: Array = np.zeros(0, np.int64)
        self._size = self._row = 0

    def __next__(self) -> Signal:
        if self._row == len(self._starts) - 1:
            self._load()
        begin, end = self._starts[self._row : self._row + 2]
        self._row += 1
        return spikes_at(self._units[begin:end], self._size)

    def _load(self) -> None:
        chunk = next(self._chunks)
        step, self._units = chunk.nonzero()
        self._starts = np.searchsorted(step, np.arange(len(chunk) + 1))
        self._size, self._row = chunk.shape[1], 0

    def events(self, steps: int) -> Events:
        """The spikes of the next ``steps`` steps."""
        counts: list[Array] = []
        active: list[Array] = []
        while steps > 0:
            if self._row == len(self._starts) - 1:
                self._load()
            last = min(self._row + steps, len(self._starts) - 1)
            part = self._starts[self._row : last + 1]
            counts.append(np.diff(part))
            active.append(self._units[part[0] : part[-1]])
            steps -= last - self._row
            self._row = last
        return Events(np.cumsum(np.concatenate([[0], *counts])), np.concatenate(active))
