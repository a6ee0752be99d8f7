"""The state of a chain of layers during one night, and the spikes that drive it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.simulation import Signal, SimulatedLayer

if TYPE_CHECKING:
    from continual_ep.sleep.frozen import FrozenLayers

Array = NDArray[Any]


class Events(NamedTuple):
    """Spikes of a layer: in step t those of the units ``active[starts[t] : starts[t + 1]]``."""

    starts: Array
    active: Array

    @property
    def counts(self) -> Array:
        """Spikes of each step."""
        counts: Array = np.diff(self.starts)
        return counts


class SpikeTrain(Iterator[Signal]):
    """The spikes of the input, one step or many steps at a time.

    :param chunks: ``(steps, n)`` each, in the order of the steps; numbers, other than booleans, are the
        currents of units that are active.
    :param graded: whether they are numbers.
    """

    def __init__(self, chunks: Iterable[Array], graded: bool = False) -> None:
        self._chunks, self.graded = iter(chunks), graded
        self._starts: Array = np.zeros(1, np.int64)
        self._units: Array = np.zeros(0, np.int64)
        self._values: Array | None = None
        self._size = self._row = 0

    @property
    def size(self) -> int:
        """Number of units, once a spike was read."""
        return self._size

    def __next__(self) -> Signal:
        if self._row == len(self._starts) - 1:
            self._load()
        begin, end = self._starts[self._row : self._row + 2]
        self._row += 1
        values = self._values[begin:end] if self._values is not None else None
        return Signal(self._units[begin:end], values, self._size)

    def _load(self) -> None:
        chunk = next(self._chunks)
        # Of flat indices: NumPy finds those many times faster than pairs.
        step, self._units = np.divmod(np.flatnonzero(chunk), chunk.shape[1])
        self._values = chunk[step, self._units] if self.graded else None
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

    def rows(self, steps: int) -> NDArray[np.bool_]:
        """The spikes of the next ``steps`` steps, ``(steps, n)``."""
        events = self.events(steps)
        rows = np.zeros((steps, self._size), np.bool_)
        rows[np.repeat(np.arange(steps), events.counts), events.active] = True
        return rows


@dataclass(eq=False)
class ChainState:
    """A chain of layers during one night. Engines change it in place.

    :param layers: simulated layers, first to last.
    :param spikes: of the input, step after step.
    :param thresholds: by layer; :param gains: of the synaptic currents; :param constants: constant currents.
    :param plastic: which layers change.
    :param below: frozen layers between the input and ``spikes``; None where the input feeds the first layer.
    """

    layers: list[SimulatedLayer]
    spikes: SpikeTrain
    thresholds: Sequence[float]
    gains: Sequence[float]
    constants: Sequence[Array | float]
    plastic: Sequence[bool]
    dtype: Any
    below: "FrozenLayers | None" = None

    def __post_init__(self) -> None:
        self.membranes = [np.zeros(layer.units, self.dtype) for layer in self.layers]
        self.unit_counts = [np.zeros(layer.units, np.int64) for layer in self.layers]
        self.fired: list[Array] = [np.zeros(0, np.intp) for _ in self.layers]


def depends_on_below_only(chain: ChainState, parameters: SleepParameters) -> bool:
    """Whether each layer is all-to-all and depends on nothing but the layer below.

    A night that ends when no unit spikes has to look at all layers at every step.
    """
    return (
        not parameters.feedback
        and parameters.quiet_steps is None
        and not chain.spikes.graded
        and all(layer.by_input is not None and not layer.pooling for layer in chain.layers)
    )
