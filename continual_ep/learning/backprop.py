"""Back-propagation, the rule of feed-forward networks."""

from dataclasses import dataclass

from continual_ep.errors import ConfigurationError
from continual_ep.learning.feedforward import FeedforwardRule, StackRule


@dataclass(frozen=True)
class Backprop(FeedforwardRule):
    """Back-propagation by autograd: a feed-forward network needs nothing else."""

    sources = ("rumelhart1986",)


def rule_for_layers(network: str, rule: FeedforwardRule | None) -> FeedforwardRule:
    """The rule of a network whose layers learn one by one; by default back-propagation.

    :param network: its kind, for the message.
    :raises ConfigurationError: for a rule that looks at a stack of layers, or is for other networks.
    """
    chosen = rule or Backprop()
    if not isinstance(chosen, FeedforwardRule) or isinstance(chosen, StackRule):
        raise ConfigurationError(
            f"a {network} cannot learn by {type(chosen).__name__}: it needs a rule of each layer "
            "alone, Backprop or DendriticLocalizedLearning"
        )
    return chosen
