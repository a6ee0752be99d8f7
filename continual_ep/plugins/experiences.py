"""What our plugins ask of an experience before anything is trained on it."""

from typing import Any

from continual_ep.errors import InputError


def refuse_empty(strategy: Any) -> None:
    """:raises InputError: for an experience without samples, on which no loader can be built."""
    experience = strategy.experience
    if len(experience.dataset) == 0:
        raise InputError(
            f"experience {experience.current_experience} has no samples: leave it out of the stream"
        )
