"""Tell what happened in a night: Python's log, and Avalanche's loggers at the night's experience."""

import logging
from typing import Any

from continual_ep.metrics.publishing import publish
from continual_ep.sleep.diary import NightReport

logger = logging.getLogger("continual_ep.sleep")


def log_night(experience: int, night: NightReport) -> None:
    """One line at the level INFO."""
    numbers = [
        f"{name} {value:.3g}"
        for name, value in (
            ("step", night.step),
            ("need", night.need),
            ("newest accuracy before", night.accuracy_before),
            ("after", night.accuracy_after),
        )
        if value is not None
    ]
    reason = f": {night.reason}" if night.reason else ""
    logger.info(
        "night after experience %d %s (%s)%s", experience, night.outcome, ", ".join(numbers), reason
    )


def restored_warning(night: NightReport) -> str:
    """What to do about a night that was taken back."""
    return (
        f"a night was taken back, and the network is as it was: {night.reason}. Use weaker nights "
        "(fewer steps, a smaller decrease), or allow more by max_cost; when='auto' with a larger "
        "min_need leaves such nights out"
    )


def publish_night(plugin: Any, strategy: Any, night: NightReport, experiences: int) -> None:
    """Hand the numbers of a night to the evaluator, and to its loggers at once.

    :param plugin: that publishes.
    :param experiences: learned so far; the horizontal axis where the strategy has no clock.
    """
    values = {f"{name}/train_phase": value for name, value in night.whole_values().items()}
    for name, of_layers in night.values().items():
        for layer, value in zip(night.layers, of_layers, strict=True):
            values[f"{name}/train_phase/{layer}"] = value
    publish(plugin, strategy, values, int(getattr(strategy.clock, "train_iterations", experiences)))
