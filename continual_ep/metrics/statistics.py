"""Means over seeds with confidence intervals, and paired differences between arms."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from continual_ep.errors import ConfigurationError, InputError


class Interval(NamedTuple):
    """A mean with the half width of its confidence interval; NaN wide when n = 1."""

    mean: float
    half_width: float
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width


def confidence_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    r"""Student's interval of a mean of independent, roughly normal values such as seeds.

    .. math:: \bar x \pm t_{n-1,\,(1+level)/2} \; \frac{s}{\sqrt n}

    with the sample standard deviation :math:`s` (divisor :math:`n-1`).

    :param values: one number per seed.
    :param level: the probability that such intervals cover the true mean, in (0, 1).
    :raises InputError: no values, or values that are not finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not x.size or not np.isfinite(x).all():
        raise InputError(f"values={x.tolist()}: at least one finite number per seed is needed.")
    if not 0 < level < 1:
        raise ConfigurationError(f"level={level} must lie strictly between 0 and 1.")
    if x.size == 1:
        return Interval(float(x[0]), float("nan"), 1)
    from scipy.stats import t  # type: ignore[import-untyped]  # slow to import

    quantile = float(t.ppf((1 + level) / 2, x.size - 1))
    half_width = quantile * float(x.std(ddof=1)) / x.size**0.5
    return Interval(float(x.mean()), half_width, int(x.size))


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval:
    """Interval of the mean of ``a - b``, pair by pair: the same seeds under two arms.

    The difference is significant at ``1 - level`` when the interval leaves out 0. What the seeds
    have in common cancels, which makes it narrower than the two arms' own intervals.
    """
    if len(a) != len(b):
        raise InputError(f"{len(a)} values cannot be paired with {len(b)}: use the same seeds.")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return confidence_interval(differences.tolist(), level)
