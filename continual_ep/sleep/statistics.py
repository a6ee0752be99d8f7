"""Running means of what was seen awake, in memory that does not grow with the number of inputs."""

import math
from typing import Any

import torch
from torch import Tensor

from continual_ep.errors import CheckpointError, reading_state
from continual_ep.sleep.input_range import InputRange


class RunningMean:
    """The mean of all vectors seen, in float64, without the vectors."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | None = None

    def add(self, batch: Tensor) -> None:
        """Take in a batch of vectors ``(batch, n)``; an empty one changes nothing."""
        if len(batch) == 0:
            return
        if batch.device.type == "mps":  # no float64 there
            batch = batch.cpu()
        summed = batch.detach().sum(0, dtype=torch.float64)
        if self.total is None:
            self.total = summed
        else:
            self.total = self.total.to(summed.device) + summed
        self.count += len(batch)

    @property
    def mean(self) -> Tensor:
        """Float64, on the CPU, shape ``(n,)``."""
        if self.total is None:
            raise ValueError("no inputs seen yet")
        return self.total.cpu() / self.count

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "total": None if self.total is None else self.total.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """:raises CheckpointError: for a state that is not of a running mean."""
        with reading_state("a running mean"):
            count, total = int(state["count"]), state["total"]
        sums = isinstance(total, Tensor) and total.dtype == torch.float64 and total.dim() == 1
        if count < 0 or (count > 0 and not sums) or not (total is None or sums):
            raise CheckpointError(
                f"the state of a running mean is damaged: count {count}, {total!r}"
            )
        self.count, self.total = count, total

    @classmethod
    def restored(cls, state: dict[str, Any]) -> "RunningMean":
        """The running mean of a state; :raises CheckpointError: as of :meth:`load_state_dict`."""
        mean = cls()
        mean.load_state_dict(state)
        return mean


class InputStatistics:
    """Means of the inputs of all experiences, of the current one, and of each class.

    :param per_class: whether to keep the means of classes; they need ``n`` numbers per class.
    """

    def __init__(self, per_class: bool = False) -> None:
        self.shape: tuple[int, ...] | None = None
        self.overall = RunningMean()
        self.experience = RunningMean()
        self.classes: dict[int, RunningMean] | None = {} if per_class else None
        #: Smallest and largest values seen, by channel of images, else of all inputs.
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def new_experience(self) -> None:
        """Forget the mean of the experience before."""
        self.experience = RunningMean()

    def add(self, x: Tensor, labels: Tensor | None = None) -> None:
        """Take in a batch of inputs ``(batch, ...)`` and their class labels ``(batch,)``."""
        if len(x) == 0:
            return
        self.shape = tuple(x.shape[1:])
        flat = x.detach().flatten(1) if x.dim() > 1 else x.detach()[:, None]
        self.overall.add(flat)
        self.experience.add(flat)
        self.see_range(x)
        if self.classes is not None and labels is not None:
            for label in labels.unique().tolist():
                self.classes.setdefault(int(label), RunningMean()).add(flat[labels == label])

    def see_range(self, x: Tensor) -> None:
        """Widen the range of the inputs to that of a batch."""
        channels = x.shape[1] if x.dim() == 4 else 1
        values = x.detach().reshape(len(x), channels, -1).transpose(0, 1).flatten(1)
        low, high = (extreme.cpu().double() for extreme in values.aminmax(dim=1))
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def input_range(self) -> InputRange:
        """Of the inputs seen, by channel; inputs are taken for rates where none was seen."""
        inputs = math.prod(self.shape or (1,))
        if self.low is None or self.high is None:
            return InputRange.identity(inputs)
        # Inputs that are never negative have no offset; those up to 1 are rates already.
        low = self.low.clamp(max=0.0)
        high = torch.where(low < 0, self.high, self.high.clamp(min=1.0))
        each = inputs // len(low)
        return InputRange.between(low.repeat_interleave(each), high.repeat_interleave(each))

    def add_class_mean(self, label: int, mean: Tensor) -> None:
        """Take in the mean input of a class as one value."""
        assert self.classes is not None, "made without per_class"
        self.classes.setdefault(label, RunningMean()).add(mean.detach().reshape(1, -1))

    @property
    def labels(self) -> list[int]:
        """The classes seen, in rising order; empty where class means are not kept."""
        return sorted(self.classes or {})

    def class_means(self) -> Tensor:
        """Shape ``(classes, n)``, classes in rising order."""
        means = sorted((self.classes or {}).items())
        return torch.stack([running.mean for _, running in means])

    def state_dict(self) -> dict[str, Any]:
        classes = None
        if self.classes is not None:
            classes = {label: mean.state_dict() for label, mean in self.classes.items()}
        extremes = None
        if self.low is not None and self.high is not None:
            extremes = torch.stack([self.low, self.high])
        return {
            "shape": None if self.shape is None else list(self.shape),
            "overall": self.overall.state_dict(),
            "experience": self.experience.state_dict(),
            "range": extremes,
            "classes": classes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """:raises CheckpointError: for a damaged state, or one kept with or without classes."""
        with reading_state("the input statistics"):
            shape, classes, extremes = state["shape"], state["classes"], state["range"]
            low, high = (None, None) if extremes is None else extremes.double()
            self.overall.load_state_dict(state["overall"])
            self.experience.load_state_dict(state["experience"])
        if (classes is None) != (self.classes is None):
            raise CheckpointError(
                "the saved input statistics and these differ in keeping class means: use the same sleep "
                "algorithm and the same dreams= as when they were saved"
            )
        self.shape = None if shape is None else tuple(shape)
        self.low, self.high = low, high
        if classes is not None:
            self.classes = {
                int(label): RunningMean.restored(mean) for label, mean in classes.items()
            }
