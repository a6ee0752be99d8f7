"""Back-propagation, the rule of feed-forward networks."""

from dataclasses import dataclass

from continual_ep.learning.feedforward import FeedforwardRule


@dataclass(frozen=True)
class Backprop(FeedforwardRule):
    """Back-propagation by autograd: a feed-forward network needs nothing else."""
