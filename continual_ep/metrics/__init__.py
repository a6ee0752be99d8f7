"""Accuracy matrices of a stream, metrics of learning and forgetting, intervals over seeds.

:class:`AccuracyMatrix` and :class:`RepresentationProbe` are Avalanche plugins and are imported when
first asked for; formulas, records and statistics need NumPy alone.
"""

from typing import TYPE_CHECKING, Any

from continual_ep.metrics.formulas import (
    anytime_accuracy,
    average_accuracy,
    backward_transfer,
    forgetting_chaudhry,
    forgetting_from_initial,
    forgetting_max,
    forward_transfer,
    new_task_cost,
    pooled_accuracy,
    sleep_gain,
    summary,
)
from continual_ep.metrics.record import AccuracyRecord
from continual_ep.metrics.statistics import (
    Interval,
    accuracy_interval,
    confidence_interval,
    paired_difference,
)

if TYPE_CHECKING:
    from continual_ep.metrics.accuracy_matrix import AccuracyMatrix
    from continual_ep.metrics.evaluation import accuracy_per_experience
    from continual_ep.metrics.representation_probe import RepresentationProbe

__all__ = [
    "AccuracyMatrix",
    "AccuracyRecord",
    "Interval",
    "RepresentationProbe",
    "accuracy_interval",
    "accuracy_per_experience",
    "anytime_accuracy",
    "average_accuracy",
    "backward_transfer",
    "confidence_interval",
    "forgetting_chaudhry",
    "forgetting_from_initial",
    "forgetting_max",
    "forward_transfer",
    "new_task_cost",
    "paired_difference",
    "pooled_accuracy",
    "sleep_gain",
    "summary",
]


def __getattr__(name: str) -> Any:
    if name == "AccuracyMatrix":
        from continual_ep.metrics.accuracy_matrix import AccuracyMatrix

        return AccuracyMatrix
    if name == "RepresentationProbe":
        from continual_ep.metrics.representation_probe import RepresentationProbe

        return RepresentationProbe
    if name == "accuracy_per_experience":
        from continual_ep.metrics.evaluation import accuracy_per_experience

        return accuracy_per_experience
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
