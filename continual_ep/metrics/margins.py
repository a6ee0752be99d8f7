"""How far the outputs of the newest classes exceed those of older classes, on samples of older ones."""

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Values kept of a distribution.
KEPT = 200


class Margins(NamedTuple):
    """The distribution of a margin over samples.

    :param quantiles: at most :data:`KEPT`, evenly spaced, smallest first.
    :param new_wins: share of samples whose margin is above 0: a newest class is answered.
    :param samples: of which the margin was measured.
    """

    quantiles: list[float]
    new_wins: float
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return self._asdict()


def margins(outputs: Tensor, newest: Collection[int], older: Collection[int]) -> Tensor:
    r"""``(batch,)`` margins :math:`\max_{c\ \text{newest}} o_c - \max_{c\ \text{older}} o_c`.

    :param outputs: ``(batch, classes)``.
    """
    new, old = (outputs[:, sorted(classes)].amax(1) for classes in (newest, older))
    return new - old


def distribution(values: Tensor) -> Margins | None:
    """Summarise margins, those that are finite; None for no sample."""
    values = values[values.isfinite()]
    if not len(values):
        return None
    ordered = values.double().sort().values
    places = (torch.arange(min(KEPT, len(ordered))) + 0.5) * len(ordered) / min(KEPT, len(ordered))
    kept = ordered[places.long()].tolist()
    return Margins(kept, float((values > 0).double().mean()), len(values))
