"""The cells of a run, one learning rule in one arm with one seed each, and the events they emit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from continual_ep.experiments.config import WITHOUT_EFFECT, LearningEntry, RunConfig, flattened
from continual_ep.options import plain_values

RESULT = "result.json"
CHECKPOINT = "checkpoint.pt"


class Cell(NamedTuple):
    """One training of one network.

    :param number: place in the run, from 0.
    :param learning: the learning rule.
    :param arm: the protection against forgetting.
    :param seed: of weights, order of samples, sleep and exemplars.
    """

    number: int
    learning: LearningEntry
    arm: str
    seed: int

    @property
    def label(self) -> str:
        """The learning rule's name in tables."""
        return self.learning.name

    @property
    def sleeps(self) -> bool:
        """Whether the network sleeps."""
        return "sleep" in self.arm

    @property
    def rehearses(self) -> bool:
        """Whether exemplars are replayed awake."""
        return "rehearsal" in self.arm

    def folder(self, run: Path) -> Path:
        """Where its files are."""
        return run / self.label / self.arm / f"seed-{self.seed}"

    def settings(self, config: RunConfig) -> dict[str, Any]:
        """All that shapes this cell but its seed, flat and dotted: equal settings can be averaged."""
        values = plain_values(config)
        kept = {key: values[key] for key in ("stream", "network", "training", "evaluate")}
        kept["learning"] = plain_values(self.learning)
        # One rate for all is what the training uses; where it was written does not matter.
        rates = kept["learning"].pop("learning_rates")
        if rates is not None:
            kept["training"]["learning_rates"] = rates
        if self.sleeps:
            kept["sleep"] = values["sleep"]
        if self.rehearses:
            kept["rehearsal"] = values["rehearsal"]
        del kept["learning"]["label"]
        return {k: value for k, value in flattened(kept).items() if k not in WITHOUT_EFFECT}


def cells_of(config: RunConfig) -> list[Cell]:
    """All cells, seed by seed, so that a run that was stopped has whole seeds to compare."""
    found = [
        (learning, arm, seed)
        for seed in config.seeds
        for learning in config.learning
        for arm in config.arms
    ]
    return [Cell(number, *what) for number, what in enumerate(found)]


EventKind = Literal["started", "epoch", "experience", "finished", "failed", "crashed", "warning"]


class Event(NamedTuple):
    """What happened in a cell.

    :param cell: number of the cell.
    :param kind: ``"started"`` (``done``: experiences of earlier sessions), ``"epoch"``,
        ``"experience"`` (``number``, ``awake``, ``asleep``, ``slept``, ``seconds``), ``"finished"``,
        ``"failed"`` (``message``: what the user can put right), ``"crashed"`` (``message``: a
        traceback), ``"warning"`` (``message``).
    :param data: the values named in brackets.
    """

    cell: int
    kind: EventKind
    data: dict[str, Any]


Listener = Callable[[Event], None]
