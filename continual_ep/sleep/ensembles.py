"""A night of all members of an ensemble, each with its own dreams."""

from collections.abc import Sequence

from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.networks.ensemble import Ensemble
from continual_ep.sleep.diary import SleepDiary
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.replay import sleep_replay


def sleep_replay_ensemble(
    ensemble: Ensemble,
    mean_inputs: Tensor | Sequence[Tensor],
    parameters: SleepParameters | Sequence[SleepParameters] | None = None,
    *,
    seeds: Sequence[int],
    night: int = 1,
    exclude: Sequence[str] = (),
) -> list[SleepDiary]:
    """Put every member to sleep; each dreams what it would dream alone.

    :param ensemble: changed in place.
    :param mean_inputs: of the inputs seen awake: one for all, ``(inputs,)``, or one for each member.
    :param parameters: of all, or one for each member (strength of sleep); default: the calibrated form.
    :param seeds: of the members' nights, one for each.
    :param night: number of the night, from 1.
    :param exclude: names of layers (``weights.0``, ...) that stay as they are.
    :returns: the members' diaries.
    :raises ConfigurationError: another number of seeds, means or parameters than members.
    """
    count = len(ensemble)
    means = _each(
        mean_inputs,
        count,
        "mean inputs",
        one=isinstance(mean_inputs, Tensor) and mean_inputs.dim() == 1,
    )
    single = parameters is None or isinstance(parameters, SleepParameters)
    constants = _each(parameters, count, "sleep parameters", one=single)
    numbers = _each(seeds, count, "seeds", one=False)
    return [
        sleep_replay(member, mean, own, seed=seed, night=night, exclude=exclude)
        for member, mean, own, seed in zip(ensemble.members, means, constants, numbers, strict=True)
    ]


def _each(values, count: int, what: str, *, one: bool):  # type: ignore[no-untyped-def]
    found = [values] * count if one else list(values)
    if len(found) != count:
        raise ConfigurationError(f"{len(found)} {what} were given for {count} members")
    return found
