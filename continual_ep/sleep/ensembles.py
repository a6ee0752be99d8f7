"""A night of all members of an ensemble, each with its own dreams."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.networks.ensemble import Ensemble
from continual_ep.sleep.diary import SleepDiary
from continual_ep.sleep.gpu_night import can_sleep_on_device
from continual_ep.sleep.night import sleep_together
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.replay import Asleep, model_asleep


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
    shared = isinstance(mean_inputs, Tensor) and mean_inputs.dim() == 1
    means = _each(mean_inputs, count, "mean inputs", one=shared)
    single = parameters is None or isinstance(parameters, SleepParameters)
    constants = _each(parameters, count, "sleep parameters", one=single)
    numbers = _each(seeds, count, "seeds", one=False)
    asleep = [
        model_asleep(
            member, mean, own or SleepParameters(), seed=seed, night=night, exclude=exclude
        )
        for member, mean, own, seed in zip(ensemble.members, means, constants, numbers, strict=True)
    ]
    return sleep_all(asleep)


def sleep_all(asleep: Sequence[Asleep]) -> list[SleepDiary]:
    """The nights of models that have fallen asleep: in one launch on a GPU, else one after the other."""
    chains = [model.sleeping[0] for model in asleep]
    parameters = [model.parameters for model in asleep]
    steps, device = asleep[0].steps, asleep[0].device
    together = all(len(model.sleeping) == 1 and model.steps == steps for model in asleep)
    if not (together and can_sleep_on_device(chains, parameters, device)):
        return [model.sleep() for model in asleep]
    diaries = sleep_together(chains, parameters, steps, device)
    for model in asleep:
        model.wake_up()
    return diaries


def _each(values: Any, count: int, what: str, *, one: bool) -> list[Any]:
    found = [values] * count if one else list(values)
    if len(found) != count:
        raise ConfigurationError(f"{len(found)} {what} were given for {count} members")
    return found
