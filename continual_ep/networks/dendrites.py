r"""Dendrites: a unit's inputs gather on branches, each of which rectifies before the soma averages them.

.. math:: u_{ik} = \sum_j M_{ikj} w_{ikj} s_j + c_{ik}, \qquad d_i(s) = \sum_k a_{ik} \max(u_{ik}, 0),

with fixed sparse masks M and :math:`a_{ik} = 1/K`, or learned cable weights. Source: Kubo's dendritic
equilibrium propagation (arXiv:2605.08135); structured sampling and cable weights: Chavlis and Poirazi 2025
(Nature Communications). The tied form is ours: with :math:`\Phi = s_{post} \cdot d(s_{pre})` what comes back
travels through the branches that are open,

.. math:: b_j(s_{post}, s_{pre}) = \sum_{ik} s_i\, a_{ik}\, 1[u_{ik} > 0]\, M_{ikj} w_{ikj},

which makes it an energy, and the gradient of equilibrium propagation exact.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError
from continual_ep.learning.equilibrium_propagation import EquilibriumPropagation
from continual_ep.learning.rule import RecurrentRule
from continual_ep.networks.connections import (
    Connection,
    Gates,
    Gradients,
    Values,
    Weights,
    check_feedback,
    uniform,
)
from continual_ep.networks.graph import RecurrentNetwork
from continual_ep.networks.layered import per_layer, validated_sizes
from continual_ep.networks.recurrent import readout_for
from continual_ep.relaxation import Relaxation, TimeSteps
from continual_ep.synapses import Pooling, Synapses

SAMPLINGS = ("random", "soma-field", "branch-field")


def synapses_per_branch(sources: int, fan_in: float | int) -> int:
    """How many sources a branch gets.

    :param fan_in: a whole number of synapses, or a share of the sources in (0, 1], rounded.
    :raises ConfigurationError: for a branch without synapses, or with more than there are sources.
    """
    if isinstance(fan_in, bool) or not isinstance(fan_in, int | float):
        raise ConfigurationError(
            f"fan_in is {fan_in!r}; give a share in (0, 1] or a number of synapses"
        )
    count = fan_in if isinstance(fan_in, int) else round(fan_in * sources)
    if isinstance(fan_in, float) and not 0 < fan_in <= 1:
        raise ConfigurationError(f"fan_in is {fan_in}; as a share it must lie in (0, 1]")
    if count < 1:
        raise ConfigurationError(
            f"fan_in={fan_in} leaves a branch without synapses ({sources} sources): raise it"
        )
    if count > sources:
        raise ConfigurationError(
            f"fan_in={fan_in} asks for more synapses than the {sources} sources"
        )
    return count


def branch_masks(
    sources: int,
    targets: int,
    branches: int,
    fan_in: float | int,
    *,
    sampling: str = "random",
    generator: torch.Generator | None = None,
) -> Tensor:
    """``(targets, branches, sources)`` of zeros and ones: which sources each branch is wired to.

    :param sampling: ``"random"``: drawn without replacement for each branch; ``"soma-field"``: the nearest
        to a centre that all branches of a soma share; ``"branch-field"``: to a centre of its own. Fields
        want sources that form a square image.
    :raises ConfigurationError: an unknown sampling, no square, or a branch without synapses.
    """
    count = synapses_per_branch(sources, fan_in)
    if sampling not in SAMPLINGS:
        raise ConfigurationError(f"sampling {sampling!r} is unknown; choose one of {SAMPLINGS}")
    if sampling == "random":
        scores = torch.rand(targets, branches, sources, generator=generator)
    else:
        scores = _distances(sources, targets, branches, sampling == "soma-field", generator)
    chosen = scores.topk(count, dim=2, largest=False).indices
    return torch.zeros(targets, branches, sources).scatter_(2, chosen, 1.0)


def _distances(
    sources: int, targets: int, branches: int, shared: bool, generator: torch.Generator | None
) -> Tensor:
    side = math.isqrt(sources)
    if side * side != sources:
        raise ConfigurationError(
            f"receptive fields want a square image; {sources} sources are none"
        )
    centres = torch.rand(targets, 1 if shared else branches, 2, generator=generator) * (side - 1)
    if shared:
        # Within the field its branches differ: the nearest of a random half of the sources each.
        centres = centres.expand(-1, branches, -1)
    places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)
    offsets = places.view(1, 1, sources, 2) - centres.unsqueeze(2)
    jitter = torch.rand(targets, branches, sources, generator=generator)
    # Rings of a square neighbourhood; within a ring the order is drawn.
    rings = offsets.abs().amax(3)
    return rings.round() + jitter * (3.0 if shared else 0.5)


class Dendritic(Connection):
    r"""Synapses on dendritic branches.

    :param sources, targets: numbers of units.
    :param branches: basal branches K of each target unit.
    :param fan_in: synapses of a branch: a share of the sources, or a number.
    :param feedback: ``"tied"`` (through the open branches, an energy), ``"untied"`` (apical branches on the
        source's units, with own weights that learn, as published), ``"random"``, ``"none"``.
    :param apical: apical branches of each source unit, for feedback of their own.
    :param apical_fan_in: synapses of an apical branch; default as ``fan_in``.
    :param cables: learn the weights from branches to soma, instead of 1/K.
    :param sampling: see :func:`branch_masks`; apical branches are wired at random.
    :param gain: weights are drawn from :math:`U(\pm g/\sqrt{sources})`, as published with g = 1.
    :param bias: give basal branches biases, as published.
    :raises ConfigurationError: values that cannot work.
    """

    mask: Tensor
    apical_mask: Tensor

    def __init__(
        self,
        sources: int,
        targets: int,
        *,
        branches: int = 8,
        fan_in: float | int = 0.5,
        feedback: str = "tied",
        feedback_scale: float = 1.0,
        apical: int = 2,
        apical_fan_in: float | int | None = None,
        cables: bool = False,
        sampling: str = "random",
        gain: float = 1.0,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(feedback, feedback_scale)
        self.gating = feedback == "tied"
        for name, value in (("branches", branches), ("apical", apical)):
            if type(value) is not int or value < 1:
                raise ConfigurationError(f"{name} is {value!r}; it must be 1 or more")
        self._masked_weights: dict[str, Tensor] = {}
        self.sources, self.targets = sources, targets
        self.branches, self.apical = branches, apical
        mask = branch_masks(
            sources, targets, branches, fan_in, sampling=sampling, generator=generator
        )
        self.register_buffer("mask", mask.view(targets * branches, sources))
        # As published: from the dense fan-in, and biases from the fan-in that is left.
        self.weight = uniform(
            targets * branches, sources, bound=gain / math.sqrt(sources), generator=generator
        )
        bound = 1 / math.sqrt(synapses_per_branch(sources, fan_in))
        biases = uniform(targets * branches, bound=bound, generator=generator)
        self.bias = biases if bias else None
        self.cable = nn.Parameter(torch.full((targets, branches), 1 / branches)) if cables else None
        with torch.no_grad():
            self.weight.mul_(self.mask)
        self.apical_weight: nn.Parameter | None = None
        if feedback in ("untied", "random"):
            learned = feedback == "untied"
            fan_in = fan_in if apical_fan_in is None else apical_fan_in
            apical_mask = branch_masks(targets, sources, apical, fan_in, generator=generator)
            self.register_buffer("apical_mask", apical_mask.view(sources * apical, targets))
            self.apical_weight = uniform(
                sources * apical,
                targets,
                bound=1 / math.sqrt(targets),
                generator=generator,
                learned=learned,
            )
            with torch.no_grad():
                self.apical_weight.mul_(self.apical_mask)

    @property
    def active_parameters(self) -> int:
        """Parameters that the masks leave."""
        count = int(self.mask.sum()) + (0 if self.bias is None else self.bias.numel())
        if self.cable is not None:
            count += self.cable.numel()
        if self.apical_weight is not None and self.apical_weight.requires_grad:
            count += int(self.apical_mask.sum())
        return count

    def tensors(self, values: Values | None = None) -> Weights:
        values = self.values() if values is None else values
        cables = self._cables() if self.cable is None else values["cable"]
        tensors: Weights = (self._masked("weight", values, self.mask), cables)
        if self.apical_weight is not None:
            tensors = (*tensors, self._masked("apical_weight", values, self.apical_mask))
        return tensors if self.bias is None else (*tensors, values["bias"])

    def _masked(self, place: str, values: Values, mask: Tensor) -> Tensor:
        """The synapses that exist.

        Without a graph those of the own parameters are written to memory that is reused: new pages
        cost more than the product.
        """
        weight = values[place]
        if torch.is_grad_enabled() or weight.data_ptr() != getattr(self, place).data_ptr():
            return weight * mask
        buffer = self._masked_weights.get(place)
        wanted = (weight.dtype, weight.device, torch.is_inference_mode_enabled())
        if buffer is None or (buffer.dtype, buffer.device, buffer.is_inference()) != wanted:
            buffer = self._masked_weights[place] = torch.empty_like(weight)
        return torch.mul(weight, mask, out=buffer)

    def _opened(self, pre: Tensor, tensors: Weights) -> Tensor:
        """The currents of the branches, before they are rectified."""
        bias = None if self.bias is None else tensors[-1]
        return nn.functional.linear(pre.flatten(1), tensors[0], bias)

    def _cables(self) -> Tensor:
        return self.weight.new_full((1, 1), 1.0 / self.branches)

    def drive(self, pre: Tensor, tensors: Weights) -> Tensor:
        return self.gated(pre, tensors)[0]

    def gated(self, pre: Tensor, tensors: Weights) -> tuple[Tensor, Gates]:
        opened = self._opened(pre, tensors).relu()
        by_soma = opened.view(len(pre), self.targets, self.branches)
        if self.cable is None:
            return _mean(by_soma), opened
        return (by_soma * tensors[1]).sum(2), opened

    def back(self, post: Tensor, pre: Tensor, tensors: Weights, gates: Gates = None) -> Tensor:
        if self.apical_weight is not None:
            opened = nn.functional.linear(post, tensors[2]).relu()
            return _mean(opened.view(len(post), self.sources, self.apical)).view(pre.shape)
        opened = self._opened(pre, tensors) if gates is None else gates
        return (self._through(post, opened, tensors[1]) @ tensors[0]).view(pre.shape)

    def _through(self, post: Tensor, opened: Tensor, cables: Tensor) -> Tensor:
        """What the somata send to their branches, zero where these are closed."""
        sent = (post.unsqueeze(2) * cables).expand(-1, -1, self.branches).flatten(1)
        # The derivative of a rectification: one operation instead of three.
        return torch.ops.aten.threshold_backward(sent, opened, 0.0)

    def gradients(
        self,
        post: Tensor,
        pre: Tensor,
        tensors: Weights,
        strength: Tensor,
        gates: Gates = None,
        values: Values | None = None,
    ) -> Gradients:
        opened = self._opened(pre, tensors).relu_() if gates is None else gates
        weighted = strength.unsqueeze(1) * post
        branches = self._through(weighted, opened, tensors[1])
        gradients: Gradients = [(self.weight, (branches.t() @ pre.flatten(1)).mul_(self.mask))]
        if self.bias is not None:
            gradients.append((self.bias, branches.sum(0)))
        if self.cable is not None:
            by_soma = opened.unflatten(1, self.cable.shape)
            gradients.append((self.cable, (weighted.unsqueeze(2) * by_soma).sum(0)))
        if self.apical_weight is not None and self.apical_weight.requires_grad:
            factor = self.feedback_scale / self.apical
            sent = (factor * strength.unsqueeze(1) * pre.flatten(1)).repeat_interleave(
                self.apical, 1
            )
            sent *= nn.functional.linear(post, tensors[2]) > 0
            gradients.append((self.apical_weight, (sent.t() @ post).mul_(self.apical_mask)))
        return gradients

    def synapses(self, name: str) -> Synapses:
        """During sleep the branches are the units that spike."""
        return Synapses(f"{name}.weight", self.weight, self.bias, mask=self.mask)

    def pooling(self) -> tuple[Pooling, ...]:
        """A soma passes on the mean of its branches."""
        return (Pooling(self._mean_of_branches, (self.targets * self.branches,)),)

    def _mean_of_branches(self, spikes: Tensor) -> Tensor:
        return spikes.unflatten(-1, (-1, self.branches)).mean(-1)


def _mean(branches: Tensor) -> Tensor:
    """Over the last dimension; for pairs torch's own is six times slower."""
    if branches.shape[-1] == 2:
        first, second = branches.unbind(-1)
        return (first + second).mul_(0.5)
    return branches.sum(-1) / branches.shape[-1]


class DendriticRNN(RecurrentNetwork):
    r"""A layered recurrent network with dendrites (dendritic EP, arXiv:2605.08135).

    .. math:: s_l \leftarrow \rho\big(d_l(s_{l-1}) + \gamma\, b_l(s_{l+1}, s_l)\big)

    With ``feedback="tied"`` and ``feedback_scale=1`` it has an energy, and equilibrium propagation its exact
    gradient. ``feedback="untied", feedback_scale=0.2`` is the published network, a vector field whose
    gradient is local: apical branches with own weights, which no output layer has.

    Main arguments:

    :param sizes: units per layer, input first.
    :param branches: basal branches of each unit.
    :param fan_in: synapses of a branch: a share of the units below, or a number.
    :param feedback: ``"tied"``, ``"untied"``, ``"random"`` or ``"none"``, see :class:`Dendritic`.
    :param feedback_scale: :math:`\gamma`.
    :param apical: apical branches of each hidden unit, where feedback has weights of its own.
    :param learning: the learning rule.

    Other arguments:

    :param apical_fan_in, cables, sampling: see :class:`Dendritic`; fields are for the first layer.
    :param gain: of the initial weights, one or one for each layer. Branches dilute what differs between
        inputs; deep networks want gains above the published 1, about 3, in all layers but the first.
    :param bias: give branches biases, as published. Sleep works better without.
    :param readout: see :class:`~continual_ep.networks.MRNN`.
    :param activation, relaxation, order, dt: see :class:`RecurrentNetwork`.
    :param generator: for weights, masks and time steps; default torch's global one.
    :raises ConfigurationError: values that cannot work.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        branches: int = 8,
        fan_in: float | int = 0.5,
        feedback: str = "tied",
        feedback_scale: float = 1.0,
        apical: int = 2,
        apical_fan_in: float | int | None = None,
        cables: bool = False,
        sampling: str = "random",
        gain: float | Sequence[float] = 1.0,
        bias: bool = True,
        activation: str = "hard-sigmoid",
        readout: str | None = None,
        learning: RecurrentRule | None = None,
        relaxation: Relaxation | None = None,
        order: str | None = None,
        dt: float | TimeSteps | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_feedback(feedback)  # which a single hidden layer below a softmax readout has none of
        learning = learning or EquilibriumPropagation()
        readout = readout_for(readout, learning)
        outside = readout == "softmax"
        units = validated_sizes(sizes, hidden=1 if outside else 0)
        inside = units[:-1] if outside else units
        gains = per_layer(gain, len(inside) - 1, "gain")
        links = [
            (
                layer,
                layer + 1,
                Dendritic(
                    pre,
                    post,
                    branches=branches,
                    fan_in=fan_in,
                    feedback=feedback if layer else "none",
                    feedback_scale=feedback_scale,
                    apical=apical,
                    apical_fan_in=apical_fan_in,
                    cables=cables,
                    sampling="random" if layer else sampling,
                    gain=gains[layer],
                    bias=bias,
                    generator=generator,
                ),
            )
            for layer, (pre, post) in enumerate(pairwise(inside))
        ]
        super().__init__(
            [(size,) for size in inside],
            links,
            activation=activation,
            readout=readout,
            classes=units[-1],
            learning=learning,
            relaxation=relaxation,
            order=order,
            dt=dt,
            generator=generator,
        )

    @property
    def active_parameters(self) -> int:
        """Parameters that the masks leave, the readout included."""
        count = sum(link.connection.active_parameters for link in self.links)  # type: ignore[misc]
        outside = self.readout_layer
        return count + (0 if outside is None else sum(p.numel() for p in outside.parameters()))
