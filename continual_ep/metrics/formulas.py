r"""Metrics of continual learning, as pure functions of the accuracy matrix.

:math:`R_{t,i}` is the accuracy on experience *i* after experience *t* was learned, a fraction in
[0, 1]; rows are times, columns experiences, :math:`T` the last row. With sleep there are two
matrices: :math:`R^{pre}` awake, before the sleep of each experience, and :math:`R` after it.
Without sleep they are equal.

All functions take ``trained``, the experience learned before each row; by default row *t* follows
experience *t*. Experiences that were not learned yet do not count, so that a matrix with fewer rows
than columns describes an unfinished run. One that was learned again has several rows, and
:math:`R_{i,i}` stands for its first. A mean over nothing (the forgetting of one experience)
is NaN.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from continual_ep.errors import InputError

Trained = Sequence[int] | None


def average_accuracy(R: ArrayLike, *, trained: Trained = None) -> float:
    r"""Mean accuracy over experiences at the end, each with the same weight.

    .. math:: ACC = \frac1T \sum_{i=1}^{T} R_{T,i}

    Lopez-Paz and Ranzato 2017, arXiv:1706.08840.
    """
    matrix, trained = _checked(R, trained)
    return _mean(matrix[-1, _seen(trained)])


def pooled_accuracy(R: ArrayLike, counts: ArrayLike, *, trained: Trained = None) -> float:
    r"""Share of all test samples of the experiences learned that is right at the end.

    .. math:: ACC_{pooled} = \frac{\sum_i n_i R_{T,i}}{\sum_i n_i}

    The figure of the sleep papers (Tadros et al. 2022, doi:10.1038/s41467-022-34938-7).

    :param counts: ``(columns,)`` number of test samples :math:`n_i` of each experience.
    """
    matrix, trained = _checked(R, trained)
    weights = _row("counts", counts, matrix)[_seen(trained)]
    if not (weights > 0).all():
        raise InputError(f"counts={weights.tolist()} must be positive numbers of samples.")
    return float(np.average(matrix[-1, _seen(trained)], weights=weights))


def anytime_accuracy(R: ArrayLike, *, trained: Trained = None) -> float:
    r"""Average anytime accuracy: the mean over time of the average accuracy so far.

    .. math:: \frac1T \sum_{t=1}^{T} \frac1t \sum_{i \le t} R_{t,i}

    Also called average incremental accuracy (iCaRL, Rebuffi et al. 2017, arXiv:1611.07725).
    """
    matrix, trained = _checked(R, trained)
    return _mean([matrix[t, _seen(trained[: t + 1])].mean() for t in range(len(matrix))])


def forgetting_from_initial(R: ArrayLike, *, trained: Trained = None) -> float:
    r"""Forgetting as Avalanche defines it: right after learning minus last. May be negative.

    .. math:: \frac1{T-1} \sum_{i<T} \left( R_{i,i} - R_{T,i} \right)

    Lomonaco et al. 2021, arXiv:2104.00405. It is the negative of :func:`backward_transfer`.
    """
    return -backward_transfer(R, trained=trained)


def forgetting_max(R: ArrayLike, *, trained: Trained = None) -> float:
    r"""Forgetting as Mammoth and PyCIL define it: best of all times minus last. Never negative.

    .. math:: \frac1{T-1} \sum_{i<T} \left( \max_{t \le T} R_{t,i} - R_{T,i} \right)

    Buzzega et al. 2020, arXiv:2004.07211 (Mammoth); Zhou et al. 2021, arXiv:2112.12533 (PyCIL).
    """
    matrix, trained = _checked(R, trained)
    old = _old(trained)
    return _mean(matrix[:, old].max(axis=0) - matrix[-1, old])


def forgetting_chaudhry(R: ArrayLike, *, trained: Trained = None) -> float:
    r"""Forgetting as Chaudhry et al. and FACIL define it: best earlier minus last. May be negative.

    .. math:: F = \frac1{T-1} \sum_{i<T} \left( \max_{t < T} R_{t,i} - R_{T,i} \right)

    Chaudhry et al. 2018, arXiv:1801.10112; Masana et al. 2020, arXiv:2010.15277 (FACIL).
    """
    matrix, trained = _checked(R, trained)
    old = _old(trained)
    if not old:
        return float("nan")
    return _mean(matrix[:-1, old].max(axis=0) - matrix[-1, old])


def backward_transfer(R: ArrayLike, *, trained: Trained = None) -> float:
    r"""How much later learning changed what was learned earlier; negative when it was forgotten.

    .. math:: BWT = \frac1{T-1} \sum_{i<T} \left( R_{T,i} - R_{i,i} \right)

    Lopez-Paz and Ranzato 2017, arXiv:1706.08840.
    """
    matrix, trained = _checked(R, trained)
    return _mean([matrix[-1, i] - matrix[trained.index(i), i] for i in _old(trained)])


def forward_transfer(R: ArrayLike, baseline: ArrayLike, *, trained: Trained = None) -> float:
    r"""How much earlier learning helped on an experience before it was learned.

    .. math:: FWT = \frac1{T-1} \sum_{i>1} \left( R_{i-1,i} - b_i \right)

    Lopez-Paz and Ranzato 2017, arXiv:1706.08840.

    :param baseline: ``(columns,)`` accuracy :math:`b_i` of the untrained network.
    """
    matrix, trained = _checked(R, trained)
    b = _row("baseline", baseline, matrix)
    later = _seen(trained)[1:]
    return _mean([matrix[trained.index(i) - 1, i] - b[i] for i in later])


def sleep_gain(
    R: ArrayLike, R_pre: ArrayLike, t: int | None = None, *, trained: Trained = None
) -> float:
    r"""What a sleep gave back: the rise in accuracy on the experiences before the newest.

    .. math:: G_t = \frac1{t-1} \sum_{i<t} \left( R_{t,i} - R^{pre}_{t,i} \right)

    :param t: the row, from 0; None is the mean over all rows that have an earlier experience.
    """
    gains = [
        after[old].mean() - before[old].mean()
        for after, before, old, _ in _nights(R, R_pre, t, trained)
        if old
    ]
    return _mean(gains)


def new_task_cost(
    R: ArrayLike, R_pre: ArrayLike, t: int | None = None, *, trained: Trained = None
) -> float:
    r"""What a sleep cost: the fall in accuracy on the experience just learned.

    .. math:: C_t = R^{pre}_{t,t} - R_{t,t}

    :param t: the row, from 0; None is the mean over all rows.
    """
    nights = _nights(R, R_pre, t, trained)
    return _mean([before[newest] - after[newest] for after, before, _, newest in nights])


def summary(
    R: ArrayLike,
    R_pre: ArrayLike | None = None,
    counts: ArrayLike | None = None,
    baseline: ArrayLike | None = None,
    *,
    trained: Trained = None,
) -> dict[str, float]:
    """All metrics by name; NaN where what a metric needs is missing."""
    nan = float("nan")
    return {
        "average_accuracy": average_accuracy(R, trained=trained),
        "pooled_accuracy": nan if counts is None else pooled_accuracy(R, counts, trained=trained),
        "anytime_accuracy": anytime_accuracy(R, trained=trained),
        "forgetting_from_initial": forgetting_from_initial(R, trained=trained),
        "forgetting_max": forgetting_max(R, trained=trained),
        "forgetting_chaudhry": forgetting_chaudhry(R, trained=trained),
        "backward_transfer": backward_transfer(R, trained=trained),
        "forward_transfer": (
            nan if baseline is None else forward_transfer(R, baseline, trained=trained)
        ),
        "sleep_gain": nan if R_pre is None else sleep_gain(R, R_pre, trained=trained),
        "new_task_cost": nan if R_pre is None else new_task_cost(R, R_pre, trained=trained),
    }


def _checked(R: ArrayLike, trained: Trained) -> tuple[NDArray[np.float64], list[int]]:
    matrix = np.asarray(R, dtype=np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(f"an accuracy matrix needs rows and columns, not shape {matrix.shape}.")
    order = list(range(len(matrix))) if trained is None else [int(i) for i in trained]
    if len(order) != len(matrix):
        raise InputError(f"trained={order} must name one experience per row, {len(matrix)} rows.")
    if min(order) < 0 or max(order) >= matrix.shape[1]:
        raise InputError(
            f"the matrix has {matrix.shape[1]} columns but the experiences {order} were learned: "
            "evaluate on a stream with one experience for each."
        )
    return matrix, order


def _row(name: str, values: ArrayLike, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    row = np.asarray(values, dtype=np.float64)
    if row.shape != (matrix.shape[1],):
        raise InputError(f"{name} has shape {row.shape}: one value per column is needed.")
    return row


def _seen(trained: Sequence[int]) -> list[int]:
    return list(dict.fromkeys(trained))


def _old(trained: Sequence[int]) -> list[int]:
    return [i for i in _seen(trained) if i != trained[-1]]


def _nights(
    R: ArrayLike, R_pre: ArrayLike, t: int | None, trained: Trained
) -> list[tuple[NDArray[np.float64], NDArray[np.float64], list[int], int]]:
    """``(row after, row before, earlier experiences, newest experience)`` for each row asked."""
    after, order = _checked(R, trained)
    before, _ = _checked(R_pre, order)
    if after.shape != before.shape:
        raise InputError(f"R has shape {after.shape} but R_pre {before.shape}.")
    rows = range(len(after)) if t is None else [range(len(after))[t]]
    return [(after[k], before[k], _old(order[: k + 1]), order[k]) for k in rows]


def _mean(values: ArrayLike) -> float:
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()) if array.size else float("nan")
