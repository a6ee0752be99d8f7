"""Replay of class means through the awake network, with a local rule at the read-out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.options import option
from continual_ep.sleep.algorithm import Need, Night, SleepAlgorithm
from continual_ep.synapses import Synapses


@dataclass(frozen=True, kw_only=True)
class ClassMeanReplay(SleepAlgorithm):
    r"""Show the mean input of a class drawn at random; the read-out learns it by the delta rule.

    .. math::

        h = \text{activity of the last hidden layer at the mean } \mu_c, \qquad
        \Delta W_{ij} = \eta\,\big([i = c] - (W h + b)_i\big)\,\frac{h_j}{\lVert h \rVert^2}

    Only the read-out changes, by values that its units have: their input, their output and the label of
    the replayed class. It stores the mean input of each class, ``n`` numbers per class, which are more
    than sleep replay consolidation stores: labels are needed, and a mean image is close to a prototype.
    Source of the rule: Widrow and Hoff 1960, in its normalised form.
    """

    steps: int = option(2000, "class means shown in a night", ge=1)
    rate: float = option(0.5, "part of the error that is corrected at each step (eta)", gt=0, le=1)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset(["class-means"])

    def run(self, night: Night) -> None:
        layer, labels = night.readout, night.statistics.labels
        outputs = _outputs(layer)
        if max(labels) >= outputs:
            raise ConfigurationError(
                f"class {max(labels)} has no output unit: {layer.name} has {outputs}; "
                "class-mean-replay needs one read-out with a unit for each class"
            )
        if layer.name not in night.plastic:
            return
        inputs = night.inputs_of(layer, night.statistics.class_means()).cpu().double()
        targets = torch.zeros(len(labels), outputs, dtype=torch.float64)
        targets[range(len(labels)), labels] = 1.0
        if layer.bias is not None:
            targets -= layer.bias.cpu().double()
        drawn = torch.randint(len(labels), (self.steps,), generator=night.generator())
        weight = layer.weight.detach().cpu().double()
        mask = None if layer.mask is None else layer.mask.cpu()
        layer.weight.copy_(self._learned(weight, inputs, targets, drawn.tolist(), mask))

    def _learned(
        self,
        weight: Tensor,
        inputs: Tensor,
        targets: Tensor,
        drawn: list[int],
        mask: Tensor | None,
    ) -> Tensor:
        directions = inputs / inputs.square().sum(1, keepdim=True).clamp(min=1e-12)
        for number in drawn:
            error = targets[number] - weight @ inputs[number]
            change = self.rate * torch.outer(error, directions[number])
            weight = weight + (change if mask is None else change * mask)
        return weight


def _outputs(layer: Synapses) -> int:
    if layer.weight.dim() != 2:
        raise ConfigurationError(
            f"class-mean-replay changes an all-to-all read-out, but {layer.name} is a convolution"
        )
    return int(layer.weight.shape[0])
