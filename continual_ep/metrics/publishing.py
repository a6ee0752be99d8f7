"""Hand numbers to Avalanche's evaluator and its loggers at once."""

from collections.abc import Mapping
from typing import Any

from avalanche.evaluation.metric_results import MetricValue

from continual_ep.avalanche_internals import show_published


def publish(source: Any, strategy: Any, values: Mapping[str, float], x: int) -> None:
    """Publish values of an experience while it is the current one.

    Avalanche's text loggers print what was published at the end of the next epoch or evaluation,
    which is that of the next experience, or none. So they print it here.

    :param source: the plugin that measured; :param x: place on the horizontal axis.
    """
    evaluator: Any = getattr(strategy, "evaluator", None)
    if not hasattr(evaluator, "publish_metric_value"):
        return
    for name, value in values.items():
        evaluator.publish_metric_value(MetricValue(source, name, float(value), x))
    show_published(evaluator)
