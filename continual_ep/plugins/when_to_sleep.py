"""Which experiences a night follows, as far as strategy and model say."""

from collections.abc import Sequence
from typing import Any

from avalanche.models.dynamic_modules import DynamicModule, MultiTaskModule
from torch import nn

from continual_ep.errors import ConfigurationError
from continual_ep.streams.experiences import learns_jointly, part_of


def is_scheduled(when: str | Sequence[int], strategy: Any) -> bool:
    """Whether the option ``when`` names the experience that was just learned.

    :raises ConfigurationError: for ``"last"`` where the stream is not known.
    """
    if when in ("auto", "every"):
        return True
    if when == "last":
        if learns_jointly(strategy):
            return True
        stream = getattr(strategy.experience, "origin_stream", None)
        if stream is None:
            raise ConfigurationError(
                "when='last' needs experiences of a stream, to know which is the last: give the "
                "indices of the experiences instead, e.g. when=[4]"
            )
        return bool(strategy.experience.current_experience == len(stream) - 1)
    return part_of(strategy.experience).experience in when


def keeps_answers(strategy: Any) -> bool:
    """Whether a plugin keeps the answers to earlier classes, so that nights cost more than they win."""
    return any(getattr(plugin, "keeps_answers", False) for plugin in strategy.plugins)


def may_forget(strategy: Any, unused_outputs: bool) -> bool:
    """Whether what was learned first is at risk: later classes will compete, and nothing keeps answers.

    :param unused_outputs: whether the output layer has units for classes to come. Where all belong to
        the first classes, later experiences share them: nights then cost and win nothing.

    Measured: a night after the first experience is worth 1 to 7 points at the end of the stream, and
    costs 3 to 9 where OWM keeps the answers anyway.
    """
    if learns_jointly(strategy) or _has_heads(strategy.model):
        return False
    grows = any(isinstance(module, DynamicModule) for module in strategy.model.modules())
    return (unused_outputs or grows) and not keeps_answers(strategy)


def _has_heads(model: nn.Module) -> bool:
    return any(isinstance(module, MultiTaskModule) for module in model.modules())


def separate_heads(model: nn.Module) -> bool:
    """Whether outputs of several tasks do not compete."""
    multi = (module for module in model.modules() if isinstance(module, MultiTaskModule))
    return any(len(module.known_train_tasks_labels) > 1 for module in multi)
