"""Sleep algorithms by name, and their options from plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from continual_ep.errors import ConfigurationError
from continual_ep.options import Options, option, option_fields, options_from, unknown_key_message
from continual_ep.sleep.algorithm import SleepAlgorithm
from continual_ep.sleep.class_mean_replay import ClassMeanReplay
from continual_ep.sleep.consolidation import SleepReplayConsolidation
from continual_ep.sleep.downscaling import Downscaling

#: Sleep algorithms by name. A new one is one line here.
SLEEP_ALGORITHMS: dict[str, type[SleepAlgorithm]] = {
    "src": SleepReplayConsolidation,
    "downscaling": Downscaling,
    "class-mean-replay": ClassMeanReplay,
}


@dataclass(frozen=True, kw_only=True)
class SleepSchedule(Options):
    """When and where a model sleeps, whatever the algorithm."""

    when: Literal["every", "last"] | tuple[int, ...] = option(
        "every", "after which experiences: every, last, or a list from 0", ge=0
    )
    exclude: tuple[str, ...] = option(
        (), "names of weights, or of modules that hold them, that stay as they are"
    )
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
    kind = algorithm_named(algorithm)
    names = [field.name for field in fields(kind) if field.init]  # type: ignore[arg-type]
    for name in options:
        if name not in names:
            raise ConfigurationError(
                f"sleep algorithm {algorithm}: {unknown_key_message(name, names)}"
            )
    return kind(**options)


def algorithm_named(name: str) -> type[SleepAlgorithm]:
    """The class of an algorithm.

    :raises ConfigurationError: a name that is not in :data:`SLEEP_ALGORITHMS`.
    """
    if not isinstance(name, str) or name not in SLEEP_ALGORITHMS:
        raise ConfigurationError(
            f"sleep algorithm {name!r} is unknown; choose one of {', '.join(SLEEP_ALGORITHMS)}"
        )
    return SLEEP_ALGORITHMS[name]


def sleep_from(values: Mapping[str, Any]) -> tuple[SleepSchedule, SleepAlgorithm]:
    """Schedule and algorithm from one mapping, as a configuration holds them.

    :param values: ``algorithm`` (default ``"src"``), options of :class:`SleepSchedule`, and the
        algorithm's options.
    :raises ConfigurationError: an unknown name or option, with the closest valid one, or a wrong value.
    """
    name = values.get("algorithm", "src")
    kind = algorithm_named(name)
    per_run = [field.name for field in option_fields(SleepSchedule)]
    of_algorithm = [field.name for field in option_fields(kind)]
    for key in values:
        if key not in ("algorithm", *per_run, *of_algorithm):
            text = unknown_key_message(key, ["algorithm", *per_run, *of_algorithm])
            raise ConfigurationError(f"sleep ({name}): {text}")
    schedule = options_from(SleepSchedule, {k: v for k, v in values.items() if k in per_run})
    return schedule, options_from(kind, {k: v for k, v in values.items() if k in of_algorithm})
