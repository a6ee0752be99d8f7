"""Nearest class mean: one mean input per class."""

from dataclasses import dataclass

import torch
from torch import Tensor

from continual_ep.arms.reference import Reference, ReferenceModel


class NearestMeans(ReferenceModel):
    r"""Scores :math:`-\|x - \mu_c\|^2`."""

    def scores(self, x: Tensor) -> Tensor:
        return -torch.cdist(x, self.means).square()


@dataclass(frozen=True)
class NearestClassMean(Reference):
    r"""Nearest class mean (NCM) on the inputs: :math:`\arg\min_c \|x - \mu_c\|`.

    Kept: one mean per class. Source: Mensink et al. 2013 (doi:10.1109/TPAMI.2013.83), with the
    Euclidean distance.
    """

    sources = ("mensink2013",)

    def model(self, inputs: int, classes: int, seed: int) -> ReferenceModel:
        return NearestMeans(inputs, classes)
