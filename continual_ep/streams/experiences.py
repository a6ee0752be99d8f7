"""Questions of plugins and strategies about an experience: is it empty, what is it a part of."""

from typing import Any, NamedTuple

from continual_ep.errors import InputError


class Part(NamedTuple):
    """The place of an experience in the one that it was cut from.

    :param experience: number of the original experience; the experience's own number if it is uncut.
    """

    experience: int
    is_first: bool
    is_last: bool


def part_of(experience: Any) -> Part:
    """For online streams, ours or Avalanche's, the experience that a small one was cut from."""
    number = int(experience.current_experience)
    if hasattr(experience, "is_last_subexp"):  # Avalanche's online scenarios
        origin = int(experience.origin_experience.current_experience)
        return Part(origin, bool(experience.is_first_subexp), bool(experience.is_last_subexp))
    origins = getattr(getattr(experience, "benchmark", None), "origin_experience", None)
    if origins is None:
        return Part(number, True, True)
    origin = origins[number]
    is_first = number == 0 or origins[number - 1] != origin
    is_last = number == len(origins) - 1 or origins[number + 1] != origin
    return Part(origin, is_first, is_last)


def benchmark_of(experience: Any) -> Any:
    """The benchmark that an experience, or the one it was cut from, belongs to; None if unknown."""
    benchmark = getattr(experience, "benchmark", None)
    if benchmark is None and hasattr(experience, "origin_experience"):
        return getattr(experience.origin_experience, "benchmark", None)
    return benchmark


def datasets_of(experience: Any) -> list[Any]:
    """The training data of an experience; on online streams all parts of the one it was cut from.

    :returns: empty where there is none at hand.
    """
    if hasattr(experience, "is_last_subexp"):  # Avalanche's online scenarios
        experience = experience.origin_experience
    origins = getattr(getattr(experience, "benchmark", None), "origin_experience", None)
    if origins is None:
        dataset = getattr(experience, "dataset", None)
        return [] if dataset is None else [dataset]
    stream = experience.benchmark.train_stream
    origin = origins[experience.current_experience]
    return [stream[number].dataset for number, one in enumerate(origins) if one == origin]


def refuse_empty(strategy: Any) -> None:
    """:raises InputError: for an experience without samples, on which no loader can be built."""
    experience = strategy.experience
    if len(experience.dataset) == 0:
        raise InputError(
            f"experience {experience.current_experience} has no samples: leave it out of the stream"
        )


def learns_jointly(strategy: Any) -> bool:
    """Whether all experiences are learned at once; Avalanche shows plugins only the first then."""
    from avalanche.training.supervised.joint_training import JointTraining

    return isinstance(strategy, JointTraining)
