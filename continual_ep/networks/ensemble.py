"""Several networks of one architecture as one: every product is a stack of products."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError, InputError
from continual_ep.networks.clamped import ClampedLayers
from continual_ep.networks.layered import checked_values
from continual_ep.networks.mrnn import MRNN
from continual_ep.networks.recurrent import RecurrentModule


class Ensemble(RecurrentModule):
    r"""Networks that differ in their weights alone (seeds), trained as one batch.

    ``ensemble(x)`` is ``(members, batch, classes)``; our losses then add up the members' own, so that each
    learns as if it were alone. A GPU that one small network leaves idle trains many in nearly the same
    time.

    >>> members = [MRNN([4, 8, 3], generator=torch.Generator().manual_seed(s)) for s in range(5)]
    >>> ensemble = Ensemble(members)
    >>> ensemble(torch.rand(2, 4)).shape
    torch.Size([5, 2, 3])

    :param members: networks alike in everything but their parameters; they are copied.
    :raises ConfigurationError: no members, or members that differ in more than their parameters.

    What may differ from member to member: weights, samples, learning rate
    (:class:`~continual_ep.learning.EnsembleSGD`), ``beta`` (a tuple), and how they sleep
    (``benchmarks/batched_nights.py``).
    """

    def __init__(self, members: Sequence[MRNN]) -> None:
        if not members:
            raise ConfigurationError("an ensemble needs at least one member")
        if not all(isinstance(member, MRNN) for member in members):
            raise ConfigurationError("the members of an ensemble are MRNNs")
        first = members[0]
        super().__init__(first.learning, first.relaxation)
        for number, member in enumerate(members):
            if _kind(member) != _kind(first):
                raise ConfigurationError(
                    f"member {number} differs from the first in more than its weights: {member.extra_repr()} "
                    f"against {first.extra_repr()}"
                )
        self.count = len(members)
        self.activations = first.activations
        self.sizes, self.readout = first.sizes, first.readout
        self._template = [copy.deepcopy(first)]  # in a list, so that it is no part of this module
        names = [name for name, _ in first.named_parameters()]
        self.parameters_by_name = nn.ParameterDict()
        for name in names:
            each = [dict(member.named_parameters())[name].detach() for member in members]
            # Biases have a dimension of one where samples are counted.
            stacked = torch.stack(each) if each[0].dim() == 2 else torch.stack(each).unsqueeze(1)
            learned = dict(first.named_parameters())[name].requires_grad
            self.parameters_by_name[_key(name)] = nn.Parameter(stacked, requires_grad=learned)
        for name, _ in first.named_buffers():
            each = [dict(member.named_buffers())[name] for member in members]
            self.register_buffer(name, torch.stack(each).unsqueeze(1))

    def forward(self, x: Tensor) -> Tensor:
        """The readouts at the free equilibria, ``(members, batch, classes)``.

        :raises ConfigurationError: for a rule that knows one network only.
        :raises InputError: for an input that does not fit.
        :raises DivergenceError: when a state becomes NaN or infinite.
        """
        if not self.learning.supports_ensembles:
            raise ConfigurationError(
                f"an ensemble cannot learn by {type(self.learning).__name__}: use EquilibriumPropagation, "
                "LinearResponse or BPTT"
            )
        return super().forward(x)

    def __len__(self) -> int:
        return self.count

    def _stacked(self, kind: str) -> list[nn.Parameter]:
        """The parameters whose names begin so, in the order of a member's."""
        return [p for key, p in self.parameters_by_name.items() if key.startswith(kind)]

    @property
    def dynamical_parameters(self) -> list[nn.Parameter]:
        depth = len(self.activations)
        weights, biases = self._stacked("weights_")[:depth], self._stacked("biases_")[:depth]
        return [*weights, *biases, *self._stacked("feedback_weights_")]

    def clamp(
        self,
        x: Tensor,
        parameters: Sequence[Tensor] | None = None,
        *,
        drives: Sequence[Tensor] = (),
        wants_input: bool = True,
    ) -> ClampedLayers:
        """The members with their inputs clamped to ``x``, shape ``(members, batch, sizes[0])``."""
        if parameters is None:
            parameters = [parameter.detach() for parameter in self.dynamical_parameters]
        template = self._template[0]
        weights, biases, feedback = template.parted(parameters)
        time_steps = [getattr(self, name) for name, _ in template.named_buffers()]
        return ClampedLayers(
            x,
            weights,
            biases,
            feedback,
            self.activations,
            drives[0] if drives else None,
            time_steps=time_steps or None,
            scales=template.feedback_scales,
            wants_input=wants_input,
            products=self.relaxation.products,
        )

    def checked_input(self, x: Tensor) -> Tensor:
        """``x`` as ``(members, batch, sizes[0])``.

        :param x: ``(batch, sizes[0])``, the same for all members, or with a dimension of members in front.
        :raises InputError: for an input that does not fit.
        """
        inputs = self.sizes[0]
        if x.dim() == 3 and len(x) == self.count and x.shape[-1] == inputs:
            checked_values(x.flatten(0, 1), inputs, finite=not self.relaxation.cuda_graphs)
            return x
        if x.dim() == 3 and x.shape[-1] == inputs and x.shape[1:].numel() != inputs:
            raise InputError(
                f"the input has shape {tuple(x.shape)}, but there are {self.count} members: give "
                f"({self.count}, batch, {inputs}), or (batch, {inputs}) for all"
            )
        checked_values(x, inputs, finite=not self.relaxation.cuda_graphs)
        return x.flatten(1).expand(self.count, -1, -1)

    @property
    def readout_parameters(self) -> tuple[Tensor, Tensor | None] | None:
        if self.readout != "softmax":
            return None
        biases = self._stacked("biases_")
        return self._stacked("weights_")[-1], biases[-1] if biases else None

    def read(self, state: Tensor) -> Tensor:
        outside = self.readout_parameters
        if outside is None:
            return state
        logits = state @ outside[0].mT
        return logits if outside[1] is None else logits + outside[1]

    def member(self, number: int) -> MRNN:
        """One of the members, sharing its parameters with the ensemble: what changes here changes there.

        :raises ConfigurationError: for a member that is not there.
        """
        if not 0 <= number < self.count:
            raise ConfigurationError(f"there is no member {number}: they are 0 to {self.count - 1}")
        network = copy.deepcopy(self._template[0])
        network.learning = self.learning
        network.train(self.training)
        owners = {name: _owner(network, name) for name, _ in network.named_parameters()}
        for name, (owner, key) in owners.items():
            stacked = self.parameters_by_name[_key(name)]
            value = stacked.detach()[number]
            value = value if value.dim() == 2 and "weights" in name else value.squeeze(0)
            owner.register_parameter(key, nn.Parameter(value, stacked.requires_grad))
        for name, _ in network.named_buffers():
            network.register_buffer(name, getattr(self, name)[number].squeeze(0))
        return network

    @property
    def members(self) -> list[MRNN]:
        """All members, see :meth:`member`."""
        return [self.member(number) for number in range(self.count)]

    def extra_repr(self) -> str:
        return f"{self.count} members, {self._template[0].extra_repr()}"


def _key(name: str) -> str:
    """A parameter's name as a key: a dot would be taken for a path."""
    return name.replace(".", "_")


def _owner(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, key = name.rpartition(".")
    return network.get_submodule(path), key


def _kind(network: MRNN) -> tuple[object, ...]:
    """Everything that members must have in common."""
    return (
        network.sizes,
        network.activation,
        network.readout,
        network.feedback,
        tuple(network.feedback_scales),
        len(network.biases),
        network.relaxation,
        network.learning,
        [name for name, _ in network.named_buffers()],
        [(p.dtype, p.device, p.requires_grad) for p in network.parameters()],
    )
