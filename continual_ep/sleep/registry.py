"""Sleep algorithms by name, and when a model sleeps."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from continual_ep.errors import ConfigurationError
from continual_ep.options import Options, option, unknown_key_message
from continual_ep.registry import classes
from continual_ep.sleep.algorithm import SleepAlgorithm
from continual_ep.sleep.guard import MAX_COST
from continual_ep.sleep.need import MIN_NEED

#: Sleep algorithms by name. A new one is one line here.
SLEEP_ALGORITHMS: dict[str, type[SleepAlgorithm]] = classes(
    "continual_ep.sleep",
    {
        "src": "consolidation:SleepReplayConsolidation",
        "downscaling": "downscaling:Downscaling",
        "class-mean-replay": "class_mean_replay:ClassMeanReplay",
    },
)


@dataclass(frozen=True, kw_only=True)
class SleepSchedule(Options):
    """When and where a model sleeps, whatever the algorithm."""

    when: Literal["auto", "every", "last"] | tuple[int, ...] = option(
        "auto",
        "after which experiences: auto (those with something to recover), every, last, or a list from 0",
        ge=0,
    )
    min_need: float = option(
        MIN_NEED, "auto: share of replay inputs on which the newest classes win", ge=0, le=1
    )
    guard: bool = option(True, "weaken or take back a night that costs more than max_cost allows")
    max_cost: float = option(
        MAX_COST,
        "guard: share of the accuracy on the newest classes that a night may cost, times the share of "
        "older classes",
        ge=0,
        le=1,
    )
    exclude: tuple[str, ...] = option(
        (), "names of weights, or of modules that hold them, that stay as they are"
    )
    kernels: bool = option(False, "whether the kernels of convolutions change too")
    diary: bool = option(False, "keep what happened in each night")


def make_algorithm(algorithm: str | SleepAlgorithm, options: Mapping[str, Any]) -> SleepAlgorithm:
    """The algorithm named so with these options, or an algorithm as it is.

    :raises ConfigurationError: an unknown name or option, with the closest valid one.
    """
    if isinstance(algorithm, SleepAlgorithm):
        if options:
            raise ConfigurationError(
                f"the algorithm is given as a {type(algorithm).__name__}, which has its options: "
                f"give {', '.join(options)} to it"
            )
        return algorithm
    if not isinstance(algorithm, str) or algorithm not in SLEEP_ALGORITHMS:
        raise ConfigurationError(
            f"sleep algorithm {algorithm!r} is unknown; choose one of {', '.join(SLEEP_ALGORITHMS)}"
        )
    kind: Any = SLEEP_ALGORITHMS[algorithm]
    names = [field.name for field in fields(kind) if field.init]
    for name in options:
        if name not in names:
            raise ConfigurationError(
                f"sleep algorithm {algorithm}: {unknown_key_message(name, names)}"
            )
    made: SleepAlgorithm = kind(**options)
    return made
