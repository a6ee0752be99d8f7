r"""Connections: the synapses from one layer of units onto another, and what comes back along them.

A recurrent network is layers and connections. The total input current of layer l is the sum of what its
connections bring, upwards and downwards,

.. math:: u_l = \sum_{c:\,k \to l} d_c(s_k) + \sum_{c:\,l \to m} \gamma_c\, b_c(s_m, s_l).

Tied feedback is :math:`b = (\partial d/\partial s_l)^T s_m`; with :math:`\gamma = 1` everywhere the network
has the primitive function :math:`\Phi = \sum_c s_{target} \cdot d_c(s_{source})`, and its currents are
:math:`\partial\Phi/\partial s`. All else is a vector field. A new kind of connection is one class.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError
from continual_ep.synapses import Pooling, Synapses

FEEDBACKS = ("tied", "untied", "random", "none")

#: The tensors that the currents of a connection are made of, see :meth:`Connection.tensors`.
Weights = tuple[Tensor, ...]

#: Values for a connection's parameters, by name.
Values = Mapping[str, Tensor]

#: Parameters with their gradients.
Gradients = list[tuple[nn.Parameter, Tensor]]

#: Where the current went through; None where that does not depend on the state.
Gates = Tensor | None


def check_feedback(feedback: str) -> None:
    """:raises ConfigurationError: for an unknown kind of feedback."""
    if feedback not in FEEDBACKS:
        raise ConfigurationError(f"feedback {feedback!r} is unknown; choose one of {FEEDBACKS}")


class Connection(nn.Module):
    r"""Synapses from a source layer onto a target layer.

    Currents are functions of states and of :meth:`tensors`, which a clamped network takes once for a batch
    (masks applied), so that nothing is computed twice while it settles. Parameters say only which
    tensors there are; their values come from :meth:`tensors`.

    :param feedback: ``"tied"``, ``"untied"`` (own weights, learned by the products of the pairs that they
        connect), ``"random"`` (own weights that never change) or ``"none"``.
    :param feedback_scale: :math:`\gamma`, 0 or more.
    :raises ConfigurationError: an unknown feedback or a scale that cannot be.
    """

    #: Whether what comes back goes through gates that the source's state opened.
    gating = False

    def __init__(self, feedback: str = "tied", feedback_scale: float = 1.0) -> None:
        super().__init__()
        check_feedback(feedback)
        if not 0 <= feedback_scale < math.inf:
            raise ConfigurationError(
                f"feedback_scale is {feedback_scale}; it must be finite, and 0 or more"
            )
        self.feedback, self.feedback_scale = feedback, float(feedback_scale)

    @property
    def has_feedback(self) -> bool:
        """Whether anything comes back."""
        return self.feedback != "none" and self.feedback_scale > 0

    @property
    def has_energy(self) -> bool:
        """Whether its currents derive from a primitive function."""
        return self.feedback == "tied" and self.feedback_scale == 1.0

    @abstractmethod
    def tensors(self, values: Values | None = None) -> Weights:
        """What the currents are made of, differentiable with respect to the values.

        :param values: of all parameters, by name; default :meth:`values`.
        """

    def values(self) -> Values:
        """The connection's own parameters, by name."""
        return dict(self.named_parameters())

    @abstractmethod
    def drive(self, pre: Tensor, tensors: Weights) -> Tensor:
        """The current onto the target, ``(batch, *target)``."""

    def gated(self, pre: Tensor, tensors: Weights) -> tuple[Tensor, Gates]:
        """:meth:`drive`, and the gates it went through (the winners of a pool, the open branches).

        While the source's state stays as it is, what comes back goes through the same gates, and
        :meth:`back` need not find them again.
        """
        return self.drive(pre, tensors), None

    def back(self, post: Tensor, pre: Tensor, tensors: Weights, gates: Gates = None) -> Tensor:
        """The current onto the source, ``(batch, *source)``, before the scale.

        For tied feedback, by autograd; subclasses have closed forms.

        :param gates: those of ``pre`` from :meth:`gated`, if they are known.
        """
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            source = pre if pre.requires_grad and keep else pre.detach().requires_grad_()
            drive = self.drive(source, tensors)
            (current,) = torch.autograd.grad(drive, source, post, create_graph=keep)
        return current

    def gradients(
        self,
        post: Tensor,
        pre: Tensor,
        tensors: Weights,
        strength: Tensor,
        gates: Gates = None,
        values: Values | None = None,
    ) -> Gradients:
        r"""The gradient of :math:`\sum_b c_b E_b` by the parameters that learn.

        E is :math:`s_{post} \cdot d(s_{pre})`, and, with feedback weights that learn,
        :math:`\gamma\, s_{pre} \cdot b(s_{post})` as well. By autograd; subclasses have closed forms.

        :param strength: c, one for each sample, ``(batch,)``.
        :param gates: those of ``pre`` from :meth:`gated`, if they are known.
        :param values: of the parameters, by name, of which ``tensors`` are made.
        """
        learned = {name: p for name, p in self.named_parameters() if p.requires_grad}
        if not learned:
            return []
        values = self.values() if values is None else values
        leaves = {name: values[name].detach().requires_grad_() for name in learned}
        with torch.enable_grad():
            weighted, tensors = (
                per_sample(strength, post) * post,
                self.tensors({**values, **leaves}),
            )
            energy = (weighted * self.drive(pre, tensors)).sum()
            if self.feedback == "untied":
                weighted = per_sample(strength, pre) * pre
                back = (weighted * self.back(post, pre, tensors)).sum()
                energy = energy + self.feedback_scale * back
            gradients = torch.autograd.grad(energy, list(leaves.values()), allow_unused=True)
        pairs = zip(learned.values(), gradients, strict=True)
        return [(parameter, gradient) for parameter, gradient in pairs if gradient is not None]

    @abstractmethod
    def synapses(self, name: str) -> Synapses:
        """What sleep changes of it.

        :param name: of this connection in the network's ``state_dict``.
        """

    def pooling(self) -> tuple[Pooling, ...]:
        """What the spikes of the units that this connection feeds pass through during sleep."""
        return ()


def uniform(
    *shape: int, bound: float, generator: torch.Generator | None, learned: bool = True
) -> nn.Parameter:
    r"""A parameter from :math:`U(\pm\mathrm{bound})`."""
    device = generator.device if generator is not None else None
    values = torch.empty(*shape, device=device).uniform_(-bound, bound, generator=generator)
    return nn.Parameter(values, requires_grad=learned)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """``values``, one for each sample, in a shape that multiplies ``like``."""
    return values.view(-1, *[1] * (like.dim() - 1))


class Dense(Connection):
    r"""All-to-all synapses, :math:`d(s) = W s + b`.

    :param sources, targets: numbers of units.
    :param bias: give the target biases, initially zero.
    :param bound: weights are drawn from :math:`U(\pm\mathrm{bound})`; default :math:`1/\sqrt{sources}`.
    """

    def __init__(
        self,
        sources: int,
        targets: int,
        *,
        feedback: str = "tied",
        feedback_scale: float = 1.0,
        bias: bool = False,
        bound: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(feedback, feedback_scale)
        bound = 1.0 / math.sqrt(sources) if bound is None else bound
        self.weight = uniform(targets, sources, bound=bound, generator=generator)
        self.bias = nn.Parameter(torch.zeros(targets)) if bias else None
        self.feedback_weight: nn.Parameter | None = None
        if feedback in ("untied", "random"):
            self.feedback_weight = uniform(
                targets, sources, bound=bound, generator=generator, learned=feedback == "untied"
            )

    def tensors(self, values: Values | None = None) -> Weights:
        values = self.values() if values is None else values
        weight = values["weight"]
        back = weight if self.feedback_weight is None else values["feedback_weight"]
        return (weight, back) if self.bias is None else (weight, back, values["bias"])

    def drive(self, pre: Tensor, tensors: Weights) -> Tensor:
        return nn.functional.linear(
            pre.flatten(1), tensors[0], tensors[2] if self.bias is not None else None
        )

    def back(self, post: Tensor, pre: Tensor, tensors: Weights, gates: Gates = None) -> Tensor:
        return (post @ tensors[1]).view(pre.shape)

    def gradients(
        self,
        post: Tensor,
        pre: Tensor,
        tensors: Weights,
        strength: Tensor,
        gates: Gates = None,
        values: Values | None = None,
    ) -> Gradients:
        weighted = strength.unsqueeze(1) * post
        product = weighted.t() @ pre.flatten(1)
        gradients: Gradients = [(self.weight, product)]
        if self.feedback_weight is not None and self.feedback_weight.requires_grad:
            gradients.append((self.feedback_weight, self.feedback_scale * product))
        if self.bias is not None:
            gradients.append((self.bias, weighted.sum(0)))
        return gradients

    def synapses(self, name: str) -> Synapses:
        return Synapses(f"{name}.weight", self.weight, self.bias, self.feedback_weight)


class Link(NamedTuple):
    """A connection and the layers it connects; layer 0 is the input."""

    source: int
    target: int
    connection: Connection
