"""Layers below the first one that changes: a pure function of the input spikes, many steps at once.

A convolution of a batch of steps gives the currents of all of them; then a scan over the steps adds
them up in the membranes. Spikes are those of :mod:`continual_ep.sleep.engines.stepwise`, up to the order
of summation: where a current differs in its last bit, a membrane at the threshold may fall on its
other side. Currents that are exact (weights of few bits) give the same spikes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from continual_ep.sleep.batch_norm import folded_bias, folded_weight
from continual_ep.sleep.calibration import bias_current, hidden_threshold
from continual_ep.sleep.chain import SpikeTrain
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.synapses import Pooling, Synapses

Array = NDArray[Any]

#: Currents held at once, so that memory does not grow with the night: 16 MiB of float32.
BUDGET = 1 << 22


def frozen_layers(
    layers: Sequence[Synapses], plastic: frozenset[str], parameters: SleepParameters
) -> int:
    """How many layers, up to the last kernel below the first plastic layer, depend on the input alone.

    None do with feedback. A night that ends when no unit spikes has to look at all layers in each step.
    """
    if parameters.feedback or parameters.quiet_steps is not None:
        return 0
    first = next((n for n, layer in enumerate(layers) if layer.name in plastic), 0)
    return max((n + 1 for n in range(first) if layers[n].kernel is not None), default=0)


class FrozenLayers:
    """The first layers of a chain during a night in which they do not change.

    :param layers: first to last; :param above: the pooling between the last one and the next layer.
    :param thresholds: by layer; None for :meth:`calibrate` to find. :param gains: of the currents.
    """

    def __init__(
        self,
        layers: Sequence[Synapses],
        above: tuple[Pooling, ...],
        parameters: SleepParameters,
        *,
        thresholds: Sequence[float] | None = None,
        gains: Sequence[float] | None = None,
    ) -> None:
        self.names = [layer.name for layer in layers]
        self.thresholds = list(thresholds or [])
        self.gains = list(gains or [1.0] * len(layers))
        self._layers = [_Layer(layer, parameters) for layer in layers]
        self._above, self._parameters = above, parameters
        self._top = self._layers[-1].units
        #: Whether what the layers send is no plain spikes but means of them.
        self.graded = any(not _keeps_spikes(pooling.module) for pooling in above)
        #: Spikes of each unit.
        self.unit_counts = [np.zeros(layer.units, np.int64) for layer in self._layers]
        self._counts: list[list[Array]] = []

    @property
    def counts(self) -> Array:
        """Of each step: spikes of the input and of each layer, and what was sent ``(steps, 2 + layers)``."""
        return np.concatenate([np.stack(chunk, 1) for chunk in self._counts])

    @torch.no_grad()
    def calibrate(self, rows: Array) -> Array:
        """Find the thresholds from a few steps of input spikes; what the layers send in these steps."""
        self.thresholds = []
        flow = self._layers[0].on_device(rows)
        for layer in self._layers:
            parts = [layer.currents(part) for part in flow.split(layer.steps_at_once)]
            currents = torch.cat([layer.with_constant(part) for part in parts])
            self.thresholds.append(
                hidden_threshold(currents.cpu().numpy(), self._parameters.firing_rate)
            )
            flow = layer.scan(currents, self.thresholds[-1], layer.silent())
        return self._sent(flow)

    @torch.no_grad()
    def spikes(self, train: SpikeTrain, steps: int) -> Iterator[Array]:
        """What the layers send to the next one in a night of ``steps`` steps, chunk after chunk."""
        membranes = [layer.silent() for layer in self._layers]
        at_once = min(layer.steps_at_once for layer in self._layers)
        while steps > 0:
            rows = train.rows(min(at_once, steps))
            steps -= len(rows)
            flow = self._layers[0].on_device(rows)
            counts = [rows.sum(1)]
            for number, layer in enumerate(self._layers):
                currents = layer.with_constant(layer.currents(flow)).mul_(self.gains[number])
                flow = layer.scan(currents, self.thresholds[number], membranes[number])
                self.unit_counts[number] += flow.sum(0).cpu().numpy()
                counts.append(flow.sum(1).cpu().numpy())
            sent = self._sent(flow)
            self._counts.append([*counts, np.count_nonzero(sent, 1)])
            yield sent

    def _sent(self, spikes: Tensor) -> Array:
        if self._above:
            spikes = _pooled(spikes.to(self._layers[-1].weight.dtype), self._above).flatten(1)
        sent: Array = (spikes if self.graded else spikes > 0).cpu().numpy()
        return sent


class _Layer:
    """One layer whose weights stay as they are, on the model's device."""

    def __init__(self, layer: Synapses, parameters: SleepParameters) -> None:
        weight = folded_weight(layer)
        self.weight = weight if weight.dtype == torch.float64 else weight.float()
        if layer.mask is not None:
            self.weight = self.weight * layer.mask
        self._layer, self._leak = layer, parameters.leak
        inputs = torch.zeros(1, *layer.shape, dtype=self.weight.dtype, device=weight.device)
        self.units = self._apply(inputs)[0].numel()
        constant = bias_current(folded_bias(layer), parameters, self.units // len(weight))
        self._constant = None
        if isinstance(constant, np.ndarray):
            self._constant = torch.from_numpy(constant).to(weight.device, self.weight.dtype)
        self.steps_at_once = max(1, min(256, BUDGET // max(self.units, inputs.numel())))

    def on_device(self, rows: Array) -> Tensor:
        return torch.from_numpy(rows).to(self.weight.device)

    def silent(self) -> Tensor:
        return self.weight.new_zeros(self.units)

    def currents(self, below: Tensor) -> Tensor:
        """Of steps of spikes below ``(steps, ...)``, shape ``(steps, units)``."""
        flow = _pooled(below.to(self.weight.dtype), self._layer.pooling)
        return self._apply(flow.reshape(-1, *self._layer.shape)).flatten(1)

    def with_constant(self, currents: Tensor) -> Tensor:
        return currents if self._constant is None else currents.add_(self._constant)

    def scan(self, currents: Tensor, threshold: float, membrane: Tensor) -> Tensor:
        """The spikes of all steps, shape ``(steps, units)``; ``membrane`` changes in place."""
        spikes = torch.empty(currents.shape, dtype=torch.bool, device=currents.device)
        if membrane.device.type == "cpu":  # NumPy's small operations cost a fraction of torch's
            scan(currents.numpy(), spikes.numpy(), membrane.numpy(), threshold, self._leak)
            return spikes
        for current, fired in zip(currents, spikes, strict=True):
            membrane.mul_(self._leak).add_(current)
            torch.ge(membrane, threshold, out=fired)
            membrane.masked_fill_(fired, 0.0)
        return spikes

    def _apply(self, inputs: Tensor) -> Tensor:
        kernel = self._layer.kernel
        if kernel is None:
            return inputs.flatten(1) @ self.weight.t()
        # The same numbers on each device: no TF32, whose ten bits move spikes.
        with torch.backends.cudnn.flags(allow_tf32=False, deterministic=True, benchmark=False):
            return nn.functional.conv2d(
                nn.functional.pad(inputs, kernel.padding),
                self.weight,
                stride=kernel.stride,
                dilation=kernel.dilation,
            )


def scan(currents: Array, spikes: Array, membrane: Array, threshold: float, leak: float) -> None:
    """Membranes that leak, add up currents ``(steps, units)`` and start anew where they reach the threshold.

    :param spikes: filled, ``(steps, units)``; :param membrane: changed in place.
    """
    for current, fired in zip(currents, spikes, strict=True):
        membrane *= leak
        membrane += current
        np.greater_equal(membrane, threshold, out=fired)
        membrane[fired.nonzero()[0]] = 0.0


def _pooled(flow: Tensor, pooling: tuple[Pooling, ...]) -> Tensor:
    for layer in pooling:
        flow = layer.module(flow.reshape(-1, *layer.shape))
    return flow


def _keeps_spikes(module: Any) -> bool:
    """Whether spikes leave a pooling layer as plain spikes."""
    averages = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
    return isinstance(module, nn.Module) and not isinstance(module, (*averages, nn.Upsample))
