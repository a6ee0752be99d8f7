"""What references without a trained network share: sums over samples, seen once."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs, Stateful, tensor_bytes


class ReferenceModel(nn.Module):
    """A classifier made of sums over the samples that it has seen, in float64.

    :param inputs: values of a sample; :param classes: of the whole stream.
    """

    counts: Tensor
    sums: Tensor

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.sizes: tuple[int, ...] = (inputs, classes)
        self._solution: tuple[float, Any] | None = None
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(classes, inputs, dtype=torch.float64))
        # Avalanche's strategies want an optimizer, and an optimizer a parameter.
        self.unused = nn.Parameter(torch.zeros(()), requires_grad=False)

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Add samples ``(batch, inputs)`` with their labels to the sums."""
        self.counts += torch.bincount(y, minlength=len(self.counts))
        self.sums.index_add_(0, y, x.double())

    @property
    def means(self) -> Tensor:
        """``(classes, inputs)`` mean of each class; zero for classes not seen."""
        return self.sums / self.counts.clamp(min=1).unsqueeze(1)

    def solve(self) -> Any:
        """What :meth:`scores` needs of the sums; see :attr:`solution`."""

    @property
    def solution(self) -> Any:
        """What :meth:`solve` returned, solved anew when samples have come."""
        total = float(self.counts.sum())
        if self._solution is None or self._solution[0] != total:
            self._solution = (total, self.solve())
        return self._solution[1]

    @abstractmethod
    def scores(self, x: Tensor) -> Tensor:
        """One score per class, ``(batch, classes)``, for ``x`` of shape ``(batch, inputs)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores, minus infinity for classes that have not been seen."""
        scores = self.scores(x.flatten(1).double())
        return scores.masked_fill(self.counts == 0, -torch.inf).float()

    def kept_bytes(self) -> int:
        """Bytes of the sums."""
        return tensor_bytes([buffer for _, buffer in self.named_buffers()])


@dataclass(frozen=True)
class Reference(Mechanism):
    """Base of the references: each sample is seen once and added to sums."""

    needs = Needs(labels=True, boundaries=False, samples=False)
    is_reference = True

    @abstractmethod
    def model(self, inputs: int, classes: int, seed: int) -> ReferenceModel:
        """The classifier before it has seen a sample."""

    def install(self, assembly: Assembly) -> None:
        from continual_ep.arms.reference_strategy import ReferenceStrategy

        inputs = assembly.inputs
        model = self.model(inputs, assembly.classes, assembly.seed).to(assembly.device)
        assembly.model = model
        assembly.optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        assembly.trainer, assembly.epochs = ReferenceStrategy, 1
        # The sums are the model's buffers and are saved with it.
        nothing: dict[str, Any] = {}
        assembly.states["sums"] = Stateful(lambda: nothing, lambda state: None, model.kept_bytes)
