"""How a network settles: update orders, time step, stopping, traces."""

from continual_ep.relaxation.orders import ORDERS, update_groups
from continual_ep.relaxation.protocols import (
    Clamped,
    ClampedDynamics,
    LayeredDynamics,
    LayerStack,
    Nudge,
    SettlingNetwork,
)
from continual_ep.relaxation.reference import reference_settle
from continual_ep.relaxation.settle import (
    CHECK_EVERY,
    Relaxation,
    Settled,
    largest_change,
    settle,
    step,
)
from continual_ep.relaxation.time_steps import TimeSteps

__all__ = [
    "CHECK_EVERY",
    "ORDERS",
    "Clamped",
    "ClampedDynamics",
    "LayerStack",
    "LayeredDynamics",
    "Nudge",
    "Relaxation",
    "Settled",
    "SettlingNetwork",
    "TimeSteps",
    "largest_change",
    "reference_settle",
    "settle",
    "step",
    "update_groups",
]
