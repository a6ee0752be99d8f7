"""Is a trained network dead: does it answer anything at all, and not the same to everything?"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from avalanche.models import avalanche_forward
from torch import Tensor

from continual_ep.errors import DivergenceError
from continual_ep.forward_passes import evaluating
from continual_ep.metrics.evaluation import batches_of

#: Samples of each experience that are looked at.
SAMPLES = 200


def dead_network(strategy: Any, stream: Iterable[Any]) -> str | None:
    """Say why the network of a strategy is dead after training; None for one that answers.

    It is dead when an output is NaN, when its outputs do not depend on the input, or when it answers
    the same class to all samples although the last experience had several classes.

    :param stream: of evaluation; the first samples of each experience are looked at.
    """
    scores, last = [], torch.empty(0)
    try:
        with evaluating(strategy.model, strategy.device):
            for experience in stream:
                dataset = experience.dataset.eval()
                few = dataset.subset(range(min(SAMPLES, len(dataset))))
                for x, labels, task in batches_of(few, SAMPLES, strategy.device):
                    scores.append(_output(strategy, x, task))
                    last = labels
    except DivergenceError as error:
        return f"it diverges on data of the evaluation: {error}"
    if not scores or any(not isinstance(s, Tensor) or s.dim() != 2 for s in scores):
        return None
    return _reason(torch.cat(scores).double(), several=len(last.unique()) > 1)


def _output(strategy: Any, x: Tensor, tasks: Tensor | None) -> Any:
    x = x.to(strategy.device)
    return avalanche_forward(strategy.model, x, None if tasks is None else tasks.to(x.device))


def _reason(scores: Tensor, several: bool) -> str | None:
    if bool(scores.isnan().any()):
        return "its outputs are NaN"
    spread = float((scores.amax(0) - scores.amin(0)).max())
    if not math.isfinite(spread) or spread <= 1e-6 * max(1.0, float(scores.abs().max())):
        return "its outputs do not depend on the input"
    answers = scores.argmax(1).unique()
    if several and len(answers) == 1:
        return f"it answers output {int(answers)} to every sample"
    return None
