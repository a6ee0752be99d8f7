"""Simulated layers: private copies of weights that turn the spikes below into currents and change.

They live on the CPU whatever the device of the model: a night is thousands of small steps in which
few units spike, and only the synapses of those units are read or written. NumPy's small operations
cost a fraction of torch's.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from continual_ep.sleep.batch_norm import folded_weight
from continual_ep.sleep.plasticity import Plasticity
from continual_ep.synapses import Kernel, Pooling, Synapses

Array = NDArray[Any]


class Signal(NamedTuple):
    """What a layer sends in one step: the indices of its active units.

    :param values: their currents where these are not all 1 (behind an average pooling), else None.
    :param size: number of units.
    """

    active: Array
    values: Array | None
    size: int

    def dense(self, dtype: Any) -> Array:
        """The signal as a vector ``(size,)``."""
        vector = np.zeros(self.size, dtype)
        vector[self.active] = 1.0 if self.values is None else self.values
        return vector


def spikes_at(active: Array, size: int) -> Signal:
    """Plain spikes of the units ``active``."""
    return Signal(active, None, size)


class SimulatedLayer(ABC):
    """A layer during a night."""

    #: Places at which a kernel is applied; 1 for all-to-all layers.
    positions = 1
    #: Weights ``(inputs, units)`` of an all-to-all layer, which engines may change in place.
    by_input: Array | None = None
    #: Likewise, zero where there is no synapse; None where all exist.
    mask_by_input: Array | None = None
    units: int

    def __init__(self, layer: Synapses, plasticity: Plasticity) -> None:
        self.name, self.pooling, self._plasticity = layer.name, layer.pooling, plasticity

    @abstractmethod
    def current(self, below: Signal) -> Array:
        """The current onto each unit, shape ``(units,)``."""

    @abstractmethod
    def learn(self, fired: Array, below: Signal) -> None:
        """Change the synapses of the units that spiked."""

    def feedback_current(self, fired: Array) -> Array | None:
        """The current onto the layer below from the units that spiked, ``(n_pre,)``; None: none."""
        return None

    @abstractmethod
    def weight(self) -> Array:
        """The weight, in the shape of the model's."""


class DenseLayer(SimulatedLayer):
    """All-to-all synapses, stored by columns: adding up the few active inputs reads few cache lines."""

    def __init__(self, layer: Synapses, plasticity: Plasticity) -> None:
        super().__init__(layer, plasticity)
        weight = _as_array(folded_weight(layer))
        self.units, self._inputs = weight.shape
        self._columns = np.ascontiguousarray(weight.T)
        self.by_input = self._columns
        self.mask_by_input = None if layer.mask is None else _as_array(layer.mask).T
        if self.mask_by_input is not None:
            self._columns *= self.mask_by_input
        self._feedback = None if layer.feedback is None else _as_array(layer.feedback)

    def current(self, below: Signal) -> Array:
        rows = self._columns[below.active]
        if below.values is not None:
            current: Array = below.values @ rows
        elif self.units == 1 and len(rows):
            # In order, as for more units: NumPy would sum a single column pairwise.
            current = rows.cumsum(0)[-1]
        else:
            current = rows.sum(0)
        return current

    def learn(self, fired: Array, below: Signal) -> None:
        share = np.zeros((self._inputs, 1), self._columns.dtype)
        share[below.active] = 1.0
        weight = self._columns[:, fired]
        change = self._plasticity.change(weight, share)
        if self.mask_by_input is not None:
            change *= self.mask_by_input[:, fired]
        self._columns[:, fired] = weight + change

    def feedback_current(self, fired: Array) -> Array | None:
        if self._feedback is not None:
            current: Array = self._feedback[fired].sum(0)
        else:
            current = self._columns[:, fired].sum(1)
        return current

    def weight(self) -> Array:
        return self._columns.T


class KernelLayer(SimulatedLayer):
    """A convolution: spikes are maps, and a kernel changes by the mean over its spiking positions.

    So one step changes a weight by at most as much as in an all-to-all layer, however many positions
    spike. This is our choice; the published algorithm has no convolutions.
    """

    def __init__(self, layer: Synapses, kernel: Kernel, plasticity: Plasticity) -> None:
        super().__init__(layer, plasticity)
        weight = _as_array(folded_weight(layer))
        self._shape, self._kernel, self._map = weight.shape, kernel, layer.shape
        self._weight = weight.reshape(weight.shape[0], -1).copy()
        # The latest input and its patches: a step needs them for the currents and for the changes.
        self._latest: tuple[Signal, Array] | None = None
        self.positions = self._unfold(np.zeros(layer.shape, weight.dtype)).shape[1]
        self.units = weight.shape[0] * self.positions

    def _unfold(self, below: Array) -> Array:
        """The inputs of each position, ``(inputs per position, positions)``."""
        spikes = torch.from_numpy(below.reshape(1, *self._map))
        padded = torch.nn.functional.pad(spikes, self._kernel.padding)
        patches: Array = torch.nn.functional.unfold(
            padded, self._kernel.size, self._kernel.dilation, 0, self._kernel.stride
        )[0].numpy()
        return patches

    def _patches(self, below: Signal) -> Array:
        if self._latest is None or self._latest[0] is not below:
            self._latest = below, self._unfold(below.dense(self._weight.dtype))
        return self._latest[1]

    def current(self, below: Signal) -> Array:
        if not len(below.active):
            return np.zeros(self.units, self._weight.dtype)
        product: Array = self._weight @ self._patches(below)
        return product.reshape(-1)

    def learn(self, fired: Array, below: Signal) -> None:
        active = (self._patches(below) > 0).astype(self._weight.dtype)
        channels, row = np.unique(fired // self.positions, return_inverse=True)
        spikes = np.zeros((len(channels), self.positions), self._weight.dtype)
        spikes[row, fired % self.positions] = 1.0
        share = (spikes @ active.T) / spikes.sum(1, keepdims=True)
        self._weight[channels] += self._plasticity.change(self._weight[channels], share)

    def weight(self) -> Array:
        return self._weight.reshape(self._shape)


def make_layer(layer: Synapses, plasticity: Plasticity) -> SimulatedLayer:
    """A private copy of ``layer`` for a night."""
    if layer.kernel is not None:
        return KernelLayer(layer, layer.kernel, plasticity)
    return DenseLayer(layer, plasticity)


def pooled(signal: Signal, pooling: tuple[Pooling, ...], dtype: Any) -> Signal:
    """``signal`` after the pooling layers between two synapse layers."""
    if not pooling:
        return signal
    flow = torch.from_numpy(signal.dense(dtype))
    for layer in pooling:
        flow = layer.module(flow.reshape(1, *layer.shape))[0]
    vector = flow.numpy().reshape(-1)
    active = np.flatnonzero(vector)
    return Signal(active, vector[active], len(vector))


def _as_array(weight: Tensor) -> Array:
    """A copy in float32 or float64; half precision would lose the small steps of the night."""
    wide = weight.detach().to("cpu", copy=True)
    if wide.dtype not in (torch.float32, torch.float64):
        wide = wide.float()
    array: Array = wide.numpy()
    return array
