"""What layered networks share: sizes, initial weights, inputs, optimizer groups."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError, InputError
from continual_ep.synapses import Synapses


class LayeredNetwork(nn.Module):
    """A network that is a stack of layers with all-to-all synapses between neighbours."""

    sizes: tuple[int, ...]

    @abstractmethod
    def _layer_parameters(self, layer: int) -> list[nn.Parameter]:
        """All parameters that belong to the synapses onto layer ``layer + 1``."""

    @abstractmethod
    def synapses(self) -> list[Synapses]:
        """The synapse layers, first to last, the readout included."""

    @abstractmethod
    def activities(self, x: Tensor) -> list[Tensor]:
        """The activations of all layers above the input, without a graph."""

    def parameter_groups(self, learning_rates: Sequence[float]) -> list[dict[str, Any]]:
        """Optimizer groups with one learning rate per synapse layer, first to last.

        A bias and a feedback weight learn at the rate of their layer.

        :raises ConfigurationError: unless there is one rate per layer.
        """
        rates = per_layer(learning_rates, len(self.sizes) - 1, "learning rate")
        groups = [
            {"params": self._layer_parameters(layer), "lr": rate}
            for layer, rate in enumerate(rates)
        ]
        return groups + self._further_groups(rates)

    def _further_groups(self, rates: Sequence[float]) -> list[dict[str, Any]]:
        """Groups of parameters that learn at rates of their own."""
        return []


def validated_sizes(sizes: Sequence[int], *, hidden: int) -> tuple[int, ...]:
    """``sizes`` as a tuple.

    :param hidden: the least number of hidden layers.
    :raises ConfigurationError: for too few layers or a layer without units.
    """
    if not all(isinstance(size, Integral) and not isinstance(size, bool) for size in sizes):
        raise ConfigurationError(f"sizes {list(sizes)} are not all whole numbers of units")
    units = tuple(int(size) for size in sizes)
    if len(units) < 2 + hidden or min(units) < 1:
        need = "an input and an output"
        if hidden:
            need = "an input, a hidden layer (which a softmax readout reads) and an output"
        raise ConfigurationError(
            f"sizes {list(sizes)} make no network: give {need}, each of one unit or more"
        )
    return units


def per_layer(value: float | Sequence[float], layers: int, what: str) -> list[float]:
    """One value per synapse layer.

    :raises ConfigurationError: for a sequence of another length, or a value that is not finite or below 0.
    """
    # Real, so that NumPy's scalars count as one number.
    given: Any = value
    values = [float(given)] * layers if isinstance(given, Real) else [float(v) for v in given]
    if len(values) != layers:
        raise ConfigurationError(
            f"{len(values)} values of {what} were given for {layers} synapse layers: give one, or {layers}"
        )
    for number in values:
        if not 0 <= number < math.inf:
            raise ConfigurationError(f"{what} is {number}; it must be finite, and 0 or more")
    return values


def initial_weight(
    post: int, pre: int, bound: float, generator: torch.Generator | None
) -> nn.Parameter:
    r"""A weight ``(post, pre)`` from :math:`U(\pm\mathrm{bound})`."""
    device = generator.device if generator is not None else None
    weight = torch.empty(post, pre, device=device)
    return nn.Parameter(weight.uniform_(-bound, bound, generator=generator))


def flat_input(x: Tensor, features: int) -> Tensor:
    """``x`` as a matrix ``(batch, features)``.

    :raises InputError: as of :func:`checked_values`.
    """
    checked_values(x, features)
    return x.flatten(1)


def checked_values(x: Tensor, features: int, *, finite: bool = True) -> None:
    """Refuse what is no batch of so many numbers.

    :param finite: look at every value, which on a GPU waits for it.
    :raises InputError: for integers, a single sample without batch, another number of values, or NaN and
        infinity.
    """
    if not x.is_floating_point():
        raise InputError(
            f"the input is of type {x.dtype}: scale it to floating point, e.g. x.float() / 255"
        )
    if (
        x.dim() < 2
        or x[0:1].numel() not in (0, features)
        or (len(x) == 0 and x.shape[1:].numel() != features)
    ):
        raise InputError(
            f"the input has shape {tuple(x.shape)}; the network needs (batch, {features}), "
            f"or (batch, ...) with {features} values per sample"
        )
    # The sum is finite unless a value is not (or the sum overflows): one cheap test in the usual case.
    if finite and not bool(x.detach().sum().isfinite()) and not bool(x.isfinite().all()):
        bad = int((~x.detach().flatten(1).isfinite()).any(1).sum())
        raise InputError(f"{bad} of {len(x)} samples hold NaN or infinity: clean the data")
