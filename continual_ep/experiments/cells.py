"""The cells of a run, one learning rule in one arm with one seed each, and the events they emit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from continual_ep.arms import Arm
from continual_ep.experiments.config import WITHOUT_EFFECT, LearningEntry, RunConfig, flattened
from continual_ep.options import plain_values

RESULT = "result.json"
CHECKPOINT = "checkpoint.pt"


#: The learner of cells that answer without a trained network.
REFERENCE = "reference"

#: Groups of the configuration that shape what a network learns.
SHAPING = ("stream", "network", "training", "evaluate")


class Cell(NamedTuple):
    """One training of one network, or one reference without a network.

    :param number: place in the run, from 0.
    :param learning: the learning rule; None for references.
    :param arm: the mechanisms against forgetting.
    :param seed: of weights, order of samples, class order (if it is drawn by seed), mechanisms.
    """

    number: int
    learning: LearningEntry | None
    arm: Arm
    seed: int

    @property
    def label(self) -> str:
        """The learning rule's name in tables."""
        return REFERENCE if self.learning is None else self.learning.name

    def folder(self, run: Path) -> Path:
        """Where its files are."""
        return run / self.label / self.arm.label / f"seed-{self.seed}"

    def settings(self, config: RunConfig) -> dict[str, Any]:
        """All that shapes this cell but its seed, flat and dotted: equal settings can be averaged."""
        values = plain_values(config)
        groups = ("stream", "evaluate") if self.learning is None else SHAPING
        kept = {key: values[key] for key in groups}
        if self.learning is not None:
            kept["learning"] = plain_values(self.learning)
            # One rate for all is what the training uses; where it was written does not matter.
            rates = kept["learning"].pop("learning_rates")
            if rates is not None:
                kept["training"]["learning_rates"] = rates
            del kept["learning"]["label"]
        kept["mechanisms"] = self.arm.settings()
        return {k: value for k, value in flattened(kept).items() if k not in WITHOUT_EFFECT}


def cells_of(config: RunConfig) -> list[Cell]:
    """All cells, seed by seed, so that a run that was stopped has whole seeds to compare.

    A reference without a network is one cell per seed, whatever the learning rules.
    """
    arms = config.parsed_arms()
    combinations = [
        (learning, arm, seed)
        for seed in config.seeds
        for learning in (*config.learning, None)
        for arm in arms
        if arm.is_reference == (learning is None)
    ]
    return [Cell(number, *combination) for number, combination in enumerate(combinations)]


EventKind = Literal["started", "epoch", "experience", "finished", "failed", "crashed", "warning"]


class Event(NamedTuple):
    """What happened in a cell.

    :param cell: number of the cell.
    :param kind: ``"started"`` (``done``: experiences of earlier sessions; ``again``: why an earlier
        session is repeated from the start, or None), ``"epoch"`` (``part``: of an experience),
        ``"experience"`` (``number``, ``awake``, ``asleep``, ``slept``, ``night``: its outcome or
        None, ``seconds``), ``"finished"``,
        ``"failed"`` (``message``: what the user can put right), ``"crashed"`` (``message``: a
        traceback), ``"warning"`` (``message``).
    :param data: the values named in brackets.
    """

    cell: int
    kind: EventKind
    data: dict[str, Any]


Listener = Callable[[Event], None]
