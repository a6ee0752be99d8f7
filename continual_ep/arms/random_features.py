"""A frozen random layer and a ridge regression above it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from continual_ep.arms.reference import Reference, ReferenceModel
from continual_ep.metrics.readouts import ridge_weights
from continual_ep.options import option
from continual_ep.seeding import generator_from


class RandomRidge(ReferenceModel):
    r"""Scores :math:`W [h, 1]`, :math:`h = \max(0, R x)`, with the ridge solution W.

    :math:`W = Y^T H (H^T H + \lambda \bar h I)^{-1}` over all samples seen; :math:`R_{ij} \sim
    \mathcal{N}(0, 1/n)`, drawn once; :math:`\bar h` is the mean of the diagonal of :math:`H^T H`.

    :param units: rows of R; :param ridge: :math:`\lambda`; :param seed: draws R.
    """

    layer: Tensor
    moment: Tensor

    def __init__(self, inputs: int, classes: int, units: int, ridge: float, seed: int) -> None:
        super().__init__(units + 1, classes)
        self.sizes = (inputs, units, classes)
        self.ridge = ridge
        generator = generator_from(f"random features:{seed}")
        drawn = torch.randn(units, inputs, generator=generator, dtype=torch.float64)
        # Not kept: the seed draws it again.
        self.register_buffer("layer", drawn / math.sqrt(inputs), persistent=False)
        self.register_buffer("moment", torch.zeros(units + 1, units + 1, dtype=torch.float64))

    def hidden(self, x: Tensor) -> Tensor:
        """``(batch, units + 1)``, the last being 1."""
        hidden = (x.double() @ self.layer.T).relu()
        return torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)

    def observe(self, x: Tensor, y: Tensor) -> None:
        hidden = self.hidden(x)
        super().observe(hidden, y)
        self.moment += hidden.T @ hidden

    def solve(self) -> Tensor:
        """``(units + 1, classes)`` weights."""
        return ridge_weights(self.moment, self.sums.T, self.ridge)

    def scores(self, x: Tensor) -> Tensor:
        scores: Tensor = self.hidden(x) @ self.solution
        return scores

    def kept_bytes(self) -> int:
        return super().kept_bytes() - self.layer.numel() * self.layer.element_size()


@dataclass(frozen=True)
class RandomFeatures(Reference):
    r"""Random features: a frozen random ReLU layer and a ridge regression on one-hot labels.

    Exact sums make the read-out that of joint training, in any order of classes. Kept: the sums
    :math:`H^T H` and :math:`H^T Y`; the layer itself follows from the seed. Source: Rahimi and Recht
    2008 (random features), McDonnell et al. 2023 (arXiv:2307.02251, continual learning).
    """

    main = "units"
    sources = ("mcdonnell2023",)

    units: int = option(512, "units of the random layer", ge=1, le=20000)
    ridge: float = option(1e-4, "penalty, in units of the mean squared activity", gt=0)

    def model(self, inputs: int, classes: int, seed: int) -> ReferenceModel:
        return RandomRidge(inputs, classes, self.units, self.ridge, seed)
