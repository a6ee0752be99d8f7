r"""Heterogeneous time steps: one for each unit, drawn once.

.. math:: s_i \leftarrow (1 - dt_i)\, s_i + dt_i\, \rho(u_i)

The fixed points are those of one time step for all. Source: Kubo, Modi and Patel 2026 (arXiv:2603.03402),
of which the distributions' parameters are not public; these are ours.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError

DISTRIBUTIONS = ("uniform", "normal", "log-normal", "gamma", "inverse-gamma")


@dataclass(frozen=True)
class TimeSteps:
    r"""A distribution of time steps.

    :param distribution: ``"uniform"``, ``"normal"``, ``"log-normal"``, ``"gamma"`` or ``"inverse-gamma"``
        (time constants :math:`1/dt` are gamma-distributed).
    :param mean: of the time steps, in (0, 1).
    :param spread: coefficient of variation, standard deviation by mean, above 0; of the time constants for
        ``"inverse-gamma"``.
    :param smallest: time steps are cut at this and at 1.
    :param same_mean: after cutting, rescale so that each layer's mean is ``mean`` again, so that it can be
        compared with one time step of that size.
    :raises ConfigurationError: for values that cannot work.
    """

    distribution: str = "log-normal"
    mean: float = 0.5
    spread: float = 0.3
    smallest: float = 0.01
    same_mean: bool = True

    def __post_init__(self) -> None:
        if self.distribution not in DISTRIBUTIONS:
            raise ConfigurationError(
                f"distribution {self.distribution!r} is unknown; choose one of {DISTRIBUTIONS}"
            )
        if not 0 < self.mean < 1:
            raise ConfigurationError(f"the mean time step is {self.mean}; it must lie in (0, 1)")
        if not 0 < self.spread < math.inf:
            raise ConfigurationError(f"the spread is {self.spread}; it must be positive and finite")
        if not 0 < self.smallest < self.mean:
            raise ConfigurationError(
                f"the smallest time step is {self.smallest}; it must lie in (0, mean={self.mean})"
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
    found = torch.zeros(count)
    left = torch.arange(count)
    while len(left):
        x = torch.randn(len(left), generator=generator)
        v = (1 + c * x) ** 3
        u = torch.rand(len(left), generator=generator)
        positive = v.clamp(min=1e-12)
        accepted = (v > 0) & (u.log() < 0.5 * x**2 + d * (1 - v + positive.log()))
        found[left[accepted]] = d * v[accepted]
        left = left[~accepted]
    return found * boost
