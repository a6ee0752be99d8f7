"""Streaming linear discriminant analysis: class means and one covariance."""

from dataclasses import dataclass

import torch
from torch import Tensor

from continual_ep.arms.reference import Reference, ReferenceModel
from continual_ep.options import option


class LinearDiscriminant(ReferenceModel):
    r"""Scores :math:`\mu_c^T \Lambda x - \frac12 \mu_c^T \Lambda \mu_c`.

    :math:`\Lambda = \big((1 - \epsilon)\,\Sigma + \epsilon\,\bar\lambda I\big)^{-1}` with the covariance
    :math:`\Sigma` within classes and its mean eigenvalue :math:`\bar\lambda`.

    :param shrinkage: :math:`\epsilon`.
    """

    scatter: Tensor

    def __init__(self, inputs: int, classes: int, shrinkage: float) -> None:
        super().__init__(inputs, classes)
        self.shrinkage = shrinkage
        self.register_buffer("scatter", torch.zeros(inputs, inputs, dtype=torch.float64))

    def observe(self, x: Tensor, y: Tensor) -> None:
        super().observe(x, y)
        x = x.double()
        self.scatter += x.T @ x

    def solve(self) -> tuple[Tensor, Tensor]:
        """``(classes, inputs)`` weights and ``(classes,)`` offsets."""
        means = self.means
        within = self.scatter - means.T @ (self.counts.unsqueeze(1) * means)
        within = within / self.counts.sum().clamp(min=1)
        scale = within.diagonal().mean().clamp(min=1e-12)
        identity = torch.eye(len(within), dtype=within.dtype, device=within.device)
        shrunk = (1 - self.shrinkage) * within + self.shrinkage * scale * identity
        weights = torch.linalg.solve(shrunk, means.T).T
        return weights, -0.5 * (weights * means).sum(1)

    def scores(self, x: Tensor) -> Tensor:
        weights, offsets = self.solution
        scores: Tensor = x @ weights.T + offsets
        return scores


@dataclass(frozen=True)
class StreamingLDA(Reference):
    r"""Streaming linear discriminant analysis (SLDA) on the inputs.

    One covariance for all classes, shrunk towards a multiple of the identity. Kept: class means and
    one matrix. Source: Hayes and Kanan 2020 (arXiv:1909.01520), who shrink towards the identity
    itself, which depends on the scale of the inputs. Avalanche's ``StreamingLDA`` takes one sample
    after another; sums over batches give the same matrices.
    """

    main = "shrinkage"
    sources = ("hayes2020",)

    shrinkage: float = option(0.1, "of the covariance towards its mean eigenvalue", gt=0, lt=1)

    def model(self, inputs: int, classes: int, seed: int) -> ReferenceModel:
        return LinearDiscriminant(inputs, classes, self.shrinkage)
