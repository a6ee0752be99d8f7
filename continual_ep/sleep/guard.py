"""Compare a network with itself before a night, and take back what the night costs too much."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError, DivergenceError
from continual_ep.sleep.algorithm import Night, SleepAlgorithm, run_algorithm
from continual_ep.sleep.diary import NightReport
from continual_ep.synapses import Synapses

#: Default of ``max_cost``: the share of its accuracy on the newest classes that a network may lose
#: in a night when nearly all classes are older.
MAX_COST = 0.45

#: What the night after the first experience may cost, as a part of ``max_cost``.
FIRST_SHARE = 0.2

#: Networks that the line search evaluates; the step is found to ``1 / 2**EVALUATIONS``.
EVALUATIONS = 5

#: A smaller part of a night than this is no night: the weights are restored.
SMALLEST_STEP = 0.05

#: Inputs, labels, and task labels or None.
Batch = tuple[Tensor, Tensor, Tensor | None]


def sample_size(samples: int) -> int:
    """How many of an experience's samples the guard looks at.

    At most 1,000, and a tenth of the experience, so that it costs little beside the training; but at
    least 250 or all of them, as fewer say too little.
    """
    return min(samples, 1000, max(250, samples // 10))


def largest_cost(old: int, new: int, max_cost: float) -> float:
    r"""The share of the accuracy on the newest classes that a night may cost.

    .. math:: \text{max\_cost} \cdot \max\!\left(\frac{\text{old}}{\text{old} + \text{new}}, 0.2\right)

    What can be recovered grows with the number of older classes. The night after the first experience
    recovers nothing, but without it the network forgets more.

    :param old: number of older classes; :param new: number of the newest.
    """
    return max_cost * max(old / (old + new) if old else 0.0, FIRST_SHARE)


def class_scores(output: Any, labels: Tensor) -> Tensor:
    """The output of a model, if it is a score for each class.

    :param labels: of the samples, ``(batch,)``.
    :returns: shape ``(batch, classes)``.
    :raises ConfigurationError: for an output of another kind, or labels that are no classes.
    """
    problem = None
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != len(labels):
        given = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output)
        problem = f"the output for {len(labels)} samples is {given}, not (samples, classes)"
    elif labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
        problem = f"the labels are no class numbers, but {labels.dtype} {tuple(labels.shape)}"
    elif len(labels) and int(labels.max()) >= output.shape[1]:
        problem = f"label {int(labels.max())} has no output; there are {output.shape[1]}"
    if problem is not None:
        raise ConfigurationError(
            f"the guard of a night counts right answers, but {problem}: use guard=False to sleep "
            "without it"
        )
    scores: Tensor = output
    return scores


def accuracy_on(forward: Callable[[Tensor, Tensor | None], Any], batches: Iterable[Batch]) -> float:
    """The share of samples whose label has the largest output.

    :param forward: runs the model on inputs and task labels.
    :returns: in [0, 1]; NaN when an output is NaN or the network diverges.
    :raises ConfigurationError: see :func:`class_scores`.
    """
    right = total = 0
    for x, labels, task in batches:
        try:
            scores = class_scores(forward(x, task), labels)
        except DivergenceError:
            return math.nan
        if bool(scores.isnan().any()):
            return math.nan
        right += int((scores.argmax(dim=1) == labels.to(scores.device)).sum())
        total += len(labels)
    return right / total if total else math.nan


class WeightsBefore:
    """A copy of all that a night may change: parameters, floating buffers, weights of layers."""

    def __init__(self, model: nn.Module, layers: Sequence[Synapses] = ()) -> None:
        tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
        tensors += [t for s in layers for t in (s.weight, s.bias) if t is not None]
        # By identity: layers name parameters of the model, in most cases.
        unique = {id(tensor): tensor for tensor in tensors if tensor.is_floating_point()}
        self.tensors = list(unique.values())
        self.before = [tensor.detach().clone() for tensor in self.tensors]

    def restore(self) -> None:
        """Bring back the values before the night."""
        self.move_to(self.before, 0.0)

    @torch.no_grad()
    def move_to(self, after: Sequence[Tensor], step: float) -> None:
        """Set ``before + step * (after - before)``; unchanged tensors are not touched."""
        for tensor, old, new in zip(self.tensors, self.before, after, strict=True):
            if step == 0.0 or step == 1.0:
                tensor.copy_(old if step == 0.0 else new)
            elif not torch.equal(old, new):
                tensor.copy_(torch.lerp(old, new, step))


def guarded_night(
    algorithm: SleepAlgorithm, night: Night, accuracy: Callable[[], float], allowed: float
) -> NightReport:
    """Run a night, and move back towards the weights before it where it costs too much.

    The step t is the largest found with accuracy of at least ``(1 - allowed)`` times that before the
    night, at the weights before + t (after - before).

    :param accuracy: of the model as it is, on samples of the newest classes; NaN for outputs of NaN.
    :param allowed: share of the accuracy that the night may cost, see :func:`largest_cost`.
    """
    weights = WeightsBefore(night.model, night.layers)
    before = accuracy()
    if math.isnan(before):
        return NightReport.skipped("the outputs of the network are NaN already before the night")
    floor = before * (1.0 - allowed)
    try:
        report = run_algorithm(algorithm, night)
    except DivergenceError as error:
        weights.restore()
        return NightReport.unchanged(night.layers, str(error), accuracy_before=before)
    after = accuracy()
    report = replace(report, accuracy_before=before, accuracy_after=after)
    if after >= floor:
        return report
    slept = [tensor.detach().clone() for tensor in weights.tensors]
    step, accuracy_there = _strongest_step(weights, slept, accuracy, floor)
    cost = "outputs of NaN" if math.isnan(after) else f"accuracy {after:.1%}"
    reason = (
        f"the whole night leaves {cost} on the newest classes, less than {floor:.1%} "
        f"({before:.1%} before it)"
    )
    if step < SMALLEST_STEP:
        weights.restore()
        return report.weakened(0.0, before, f"{reason}, and no part of it is admissible")
    weights.move_to(slept, step)
    return report.weakened(step, accuracy_there, reason)


def _strongest_step(
    weights: WeightsBefore, after: Sequence[Tensor], accuracy: Callable[[], float], floor: float
) -> tuple[float, float]:
    """Bisect between the weights before, which are admissible, and after, which are not."""
    low, high, there = 0.0, 1.0, math.nan
    for _ in range(EVALUATIONS):
        middle = (low + high) / 2
        weights.move_to(after, middle)
        measured = accuracy()
        if measured >= floor:  # false for NaN
            low, there = middle, measured
        else:
            high = middle
    return low, there
