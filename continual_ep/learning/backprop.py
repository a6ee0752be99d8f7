"""Back-propagation, the rule of feed-forward networks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backprop:
    """Back-propagation by autograd: a feed-forward network needs nothing else."""
