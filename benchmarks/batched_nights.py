"""A night of all members of an ensemble, each with its own replay input."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from continual_ep.errors import ConfigurationError
from continual_ep.sleep.diary import SleepDiary
from continual_ep.sleep.engines import triton
from continual_ep.sleep.night import run_batched
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.prepare import PreparedSleep, prepare_model


class HasMembers(Protocol):
    """An ensemble, such as :class:`continual_ep.networks.Ensemble`."""

    @property
    def members(self) -> Sequence[nn.Module]:
        """The members, whose parameters are those of the ensemble."""


def sleep_replay_ensemble(
    ensemble: HasMembers,
    mean_inputs: Tensor | Sequence[Tensor],
    parameters: SleepParameters | Sequence[SleepParameters] | None = None,
    *,
    seeds: Sequence[int],
    night: int = 1,
    exclude: Sequence[str] = (),
) -> list[SleepDiary]:
    """Run a night of every member, each with the numbers of a night on its own.

    :param ensemble: changed in place.
    :param mean_inputs: of the inputs seen awake: one for all, ``(inputs,)``, or one for each member.
    :param parameters: of all, or one for each member (strength of sleep); default: the calibrated form.
    :param seeds: of the members' nights, one for each.
    :param night: number of the night, from 1.
    :param exclude: names of layers (``weights.0``, ...) that stay as they are.
    :returns: the members' diaries.
    :raises ConfigurationError: another number of seeds, means or parameters than members.
    """
    members = ensemble.members
    shared = isinstance(mean_inputs, Tensor) and mean_inputs.dim() == 1
    means = _each(mean_inputs, len(members), "mean inputs", one=shared)
    single = parameters is None or isinstance(parameters, SleepParameters)
    constants = _each(parameters, len(members), "sleep parameters", one=single)
    numbers = _each(seeds, len(members), "seeds", one=False)
    prepared = [
        prepare_model(
            member, mean, one or SleepParameters(), seed=seed, night=night, exclude=exclude
        )
        for member, mean, one, seed in zip(members, means, constants, numbers, strict=True)
    ]
    return _run(prepared)


def _run(prepared: Sequence[PreparedSleep]) -> list[SleepDiary]:
    """The nights of all models: in one launch on a GPU, else one after the other."""
    chains = [model.states[0] for model in prepared]
    parameters = [model.parameters for model in prepared]
    steps, device = prepared[0].steps, prepared[0].device
    alike = all(len(model.states) == 1 and model.steps == steps for model in prepared)
    if not (alike and triton.can_run_batched(chains, parameters, device)):
        return [model.run() for model in prepared]
    diaries = run_batched(chains, parameters, steps, device)
    for model in prepared:
        model.write_back()
    return diaries


def _each(values: Any, count: int, what: str, *, one: bool) -> list[Any]:
    items = [values] * count if one else list(values)
    if len(items) != count:
        raise ConfigurationError(f"{len(items)} {what} were given for {count} members")
    return items
