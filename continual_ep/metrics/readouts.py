"""Linear read-outs of features in closed form: ridge regression and nearest class mean."""

from typing import NamedTuple

import torch
from torch import Tensor


class Readout(NamedTuple):
    """Answers the class with the largest of the scores ``(x - centre) @ weights + offsets``.

    :param weights: ``(n, classes)``; :param offsets: ``(classes,)``; :param centre: ``(n,)``.
    :param classes: the labels of the columns.
    """

    weights: Tensor
    offsets: Tensor
    centre: Tensor
    classes: Tensor

    def answers(self, features: Tensor) -> Tensor:
        """``(batch,)`` labels for features ``(batch, n)``."""
        scores = (features.double() - self.centre) @ self.weights + self.offsets
        return self.classes[scores.argmax(1)]


def ridge_weights(moment: Tensor, products: Tensor, strength: float) -> Tensor:
    r"""The solution W of :math:`(M + \lambda \bar m I) W = P` with the mean :math:`\bar m` of M's diagonal.

    :param moment: M, ``(n, n)``, :math:`X^T X`; :param products: P, ``(n, k)``, :math:`X^T Y`.
    :param strength: :math:`\lambda`; it does not depend on the scale of X.
    """
    penalty = strength * moment.diagonal().mean().clamp(min=1e-12)
    identity = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    return torch.linalg.solve(moment + penalty * identity, products)


def ridge_readout(features: Tensor, labels: Tensor, strength: float) -> Readout:
    r"""Ridge regression of one-hot labels on features, with a free offset.

    In float64 on the smaller of the two systems: with fewer samples than features
    :math:`W = X^T (X X^T + \lambda I)^{-1} Y`, which is the same solution.

    :param features: ``(samples, n)``; :param labels: ``(samples,)``.
    :param strength: of the penalty, in units of the mean sum of squares of a feature.
    """
    x, centre, classes, targets = _prepared(features, labels)
    offsets = targets.mean(0)
    targets = targets - offsets
    samples, size = x.shape
    if samples >= size:
        weights = ridge_weights(x.T @ x, x.T @ targets, strength)
    else:
        # The mean of the diagonal is that of X X^T times samples / n.
        weights = x.T @ ridge_weights(x @ x.T, targets, strength * samples / size)
    return Readout(weights, offsets, centre, classes)


def nearest_class_mean(features: Tensor, labels: Tensor) -> Readout:
    r"""The class whose mean feature is nearest: :math:`\arg\max_c\, 2 x^T \mu_c - \|\mu_c\|^2`.

    :param features: ``(samples, n)``; :param labels: ``(samples,)``.
    """
    x, centre, classes, targets = _prepared(features, labels)
    means = (targets.T @ x) / targets.sum(0).unsqueeze(1)
    return Readout(2 * means.T, -means.square().sum(1), centre, classes)


def _prepared(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centred features, their centre, the classes, and one-hot labels, in float64."""
    x = features.double()
    centre = x.mean(0)
    classes, places = labels.unique(return_inverse=True)
    targets = torch.nn.functional.one_hot(places, len(classes)).to(x)
    return x - centre, centre, classes, targets
