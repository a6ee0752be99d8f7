"""Phases as CUDA graphs: the work of a step without the work of launching it.

A free phase of 60 steps is some hundred small kernels, each launched by Python. As a CUDA graph they
are one launch without host synchronisation. So a phase that is recorded does a fixed number of steps;
whether it settled, and whether it left the finite numbers, is checked every
:data:`CHECK_RECORDED_EVERY` batches, and by ``network.check_recorded()``.

On the CPU there is nothing to record: the same functions run on the same tensors, which is how the
tests run this path. Not yet measured on a GPU.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from continual_ep.learning.losses import Nudging
from continual_ep.learning.rule import FreePhase, SecondPhaseRule
from continual_ep.relaxation import settle
from continual_ep.relaxation.protocols import SettlingNetwork

#: Batches between two checks of what the phases reported.
CHECK_RECORDED_EVERY = 64

#: CudaGraphs kept for a network: shapes of batches, in training and in evaluation.
MAX_SHAPES = 4

#: Calls before a recording, in which libraries choose their algorithms.
WARM_UP = 3

TensorFunction = Callable[..., Sequence[Tensor]]


class RecordedFunction:
    """A function of tensors whose work never changes.

    :param function: reads its arguments, and tensors that stay where they are; returns new tensors.
    :param examples: arguments of the shapes to come.
    """

    def __init__(self, function: TensorFunction, examples: Sequence[Tensor]) -> None:
        self._function = function
        self._inputs = [example.detach().clone() for example in examples]
        self._graph: torch.cuda.CUDAGraph | None = None
        if self._inputs[0].is_cuda:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    function(*self._inputs)
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self.outputs = list(function(*self._inputs))
        else:
            self.outputs = list(function(*self._inputs))

    def __call__(self, *arguments: Tensor) -> list[Tensor]:
        """The results, in tensors that the next call overwrites."""
        for example, given in zip(self._inputs, arguments, strict=True):
            example.copy_(given)
        if self._graph is not None:
            self._graph.replay()
        else:
            for output, value in zip(self.outputs, self._function(*self._inputs), strict=True):
                output.copy_(value)
        return self.outputs


class RecordedPhases:
    """The free phase of a network for one shape of batch, and its second phases.

    :param x: a batch.
    """

    def __init__(self, network: SettlingNetwork, rule: SecondPhaseRule, x: Tensor) -> None:
        self._network, self._rule = network, rule
        self._depth = len(network.activations)
        #: Counts free phases: a second phase belongs to the last one, or is too late.
        self.number = 0
        self._free = RecordedFunction(self._settled, [x])
        self._second: dict[tuple[bool, type | None], RecordedFunction] = {}

    def _settled(self, x: Tensor) -> list[Tensor]:
        clamped = self._network.clamp(x)
        settled = settle(
            clamped, self._network.relaxation, steps=self._rule.free_steps, check_finite=False
        )
        assert settled.change is not None
        return [settled.change, x.clone(), *settled.states, *clamped.drives]

    def free_phase(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """States, which the next call overwrites, and how much any unit still moved."""
        self.number += 1
        change, _, *rest = self._free(x)
        return rest[: self._depth], change

    def gradients(
        self, nudging: Nudging, output_gradient: Tensor, *, wants_input: bool
    ) -> tuple[list[Tensor], Tensor | None]:
        """What the rule makes of the last free phase; in tensors that are the caller's."""
        loss_and_weights = nudging.single_loss()
        kind = (wants_input, type(loss_and_weights[0]) if loss_and_weights else None)
        arguments = (
            [output_gradient]
            if loss_and_weights is None
            else [output_gradient, loss_and_weights[1]]
        )
        if kind not in self._second:
            function = self._second_phase(nudging, wants_input=wants_input)
            self._second[kind] = RecordedFunction(function, arguments)
        gradients = [gradient.clone() for gradient in self._second[kind](*arguments)]
        return (gradients[:-1], gradients[-1]) if wants_input else (gradients, None)

    def _second_phase(self, nudging: Nudging, *, wants_input: bool) -> TensorFunction:
        loss_and_weights = nudging.single_loss()
        loss = loss_and_weights[0] if loss_and_weights else None
        _, x, *rest = self._free.outputs
        states, drives = rest[: self._depth], rest[self._depth :]

        def second_phase(output_gradient: Tensor, weights: Tensor | None = None) -> list[Tensor]:
            terms = [(loss, weights)] if loss is not None and weights is not None else []
            clamped = self._network.clamp(x, drives=drives, wants_input=wants_input)
            phase = FreePhase(
                self._network, clamped, states, Nudging(terms, nudging.readout), check_finite=False
            )
            gradients, input_gradient = self._rule.gradients(phase, output_gradient)
            return gradients if input_gradient is None else [*gradients, input_gradient]

        return second_phase


class CudaGraphs:
    """CUDA graphs of one network, rebuilt when a parameter is reallocated or an option changes."""

    def __init__(self) -> None:
        self._phases: dict[tuple[object, ...], RecordedPhases] = {}
        self._made_for: tuple[object, ...] = ()

    def __deepcopy__(self, memo: dict[int, object]) -> "CudaGraphs":
        """None: a copy of a network has parameters elsewhere."""
        return CudaGraphs()

    def of(self, network: SettlingNetwork, rule: SecondPhaseRule, x: Tensor) -> RecordedPhases:
        """The recording for batches like this one."""
        places = tuple(p.data_ptr() for p in network.parameters())
        made_for = (rule, network.relaxation, places)
        if made_for != self._made_for:
            self._phases.clear()
            self._made_for = made_for
        key = (x.shape, x.dtype, x.device)
        if key not in self._phases:
            if len(self._phases) == MAX_SHAPES:
                del self._phases[next(iter(self._phases))]
            self._phases[key] = RecordedPhases(network, rule, x)
        return self._phases[key]
