r"""Heterogeneous time steps: one for each unit, drawn once.

.. math:: s_i \leftarrow (1 - dt_i)\, s_i + dt_i\, \rho(u_i)

The fixed points are those of one time step for all. Source: Kubo, Modi and Patel 2026 (arXiv:2603.03402),
of which the distributions' parameters are not public; these are ours.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.options import Options, option


@dataclass(frozen=True)
class TimeSteps(Options):
    r"""A distribution of time steps.

    ``spread`` is the standard deviation by the mean; for ``"inverse-gamma"`` that of the time constants
    :math:`1/dt`, which are gamma-distributed. Steps are cut at ``smallest`` and at 1; ``same_mean`` then
    makes each layer comparable with one time step of that size.

    :raises ConfigurationError: for values that cannot work.
    """

    distribution: Literal["uniform", "normal", "log-normal", "gamma", "inverse-gamma"] = option(
        "log-normal", "of the time steps"
    )
    mean: float = option(0.5, "of the time steps", gt=0, lt=1)
    spread: float = option(0.3, "coefficient of variation", gt=0)
    smallest: float = option(0.01, "cut below; less than the mean", gt=0, lt=1)
    same_mean: bool = option(True, "rescale each layer to the mean after cutting")

    def check_combination(self) -> None:
        if self.smallest >= self.mean:
            raise ConfigurationError(
                f"smallest is {self.smallest}; it must lie below the mean time step, {self.mean}"
            )

    def drawn(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Time steps of a layer, in [smallest, 1]."""
        steps = self._raw(math.prod(shape), generator).clamp(self.smallest, 1.0)
        if self.same_mean:
            for _ in range(20):  # cutting moves the mean again, less each time
                steps = (steps * (self.mean / steps.mean())).clamp(self.smallest, 1.0)
        return steps.view(shape)

    def _raw(self, count: int, generator: torch.Generator | None) -> Tensor:
        mean, deviation = self.mean, self.mean * self.spread
        if self.distribution == "uniform":
            half = math.sqrt(3.0) * deviation
            return mean + half * (2 * torch.rand(count, generator=generator) - 1)
        normal = torch.randn(count, generator=generator)
        if self.distribution == "normal":
            return mean + deviation * normal
        if self.distribution == "log-normal":
            sigma = math.sqrt(math.log1p(self.spread**2))
            return torch.exp(math.log(mean) - sigma**2 / 2 + sigma * normal)
        shape = 1.0 / self.spread**2
        gamma = _gamma(shape, count, generator) / shape  # of mean 1
        if self.distribution == "gamma":
            return mean * gamma
        return mean / gamma.clamp(min=1e-6)


def _gamma(shape: float, count: int, generator: torch.Generator | None) -> Tensor:
    """Gamma variates of scale 1 from a generator of ours (Marsaglia and Tsang 2000)."""
    boost = (
        torch.rand(count, generator=generator) ** (1 / shape) if shape < 1 else torch.ones(count)
    )
    shape = shape + 1 if shape < 1 else shape
    d = shape - 1 / 3
    c = 1 / math.sqrt(9 * d)
    drawn = torch.zeros(count)
    left = torch.arange(count)
    while len(left):
        x = torch.randn(len(left), generator=generator)
        v = (1 + c * x) ** 3
        u = torch.rand(len(left), generator=generator)
        positive = v.clamp(min=1e-12)
        accepted = (v > 0) & (u.log() < 0.5 * x**2 + d * (1 - v + positive.log()))
        drawn[left[accepted]] = d * v[accepted]
        left = left[~accepted]
    return drawn * boost
