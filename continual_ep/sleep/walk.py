"""Finding the synapse layers of any module, by watching one batch pass through it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from continual_ep.errors import ConfigurationError, InputError, warn_user
from continual_ep.forward_passes import evaluation_mode
from continual_ep.sleep.batch_norm import can_be_folded
from continual_ep.sleep.layers import Chain, chain_of_synapses
from continual_ep.synapses import Kernel, Pooling, Synapses

#: Modules without synapses that are applied to the spikes themselves.
POOLINGS = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.ZeroPad2d,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
)

#: Nodes of autograd's graph that mix units by weights: synapses that no module holds.
PRODUCTS = ("Addmm", "Mm", "Bmm", "Mv", "Dot", "Convolution")


def find_chains(
    model: nn.Module, example: Tensor, forward: Callable[[Tensor], Any] | None = None
) -> tuple[list[Chain], list[str]]:
    """The chains of ``model``, and the names of layers with weights that sleep has to leave alone.

    A network with a method ``synapses()`` answers by itself. Any other model is run once on
    ``example`` in evaluation mode, without touching random streams. A layer joins the chain of the
    layer before it if its input is a function of that layer's output alone; where branches meet (a
    residual sum, parallel layers) a chain of its own begins, which replays its input as seen awake.

    :param example: a batch of inputs; their values do not matter.
    :param forward: how to run the model on it, where calling it is not enough.
    :raises ConfigurationError: when the model has no layer that can sleep.
    """
    if names_its_synapses(model):
        return [chain_of_synapses(model.synapses())], []  # type: ignore[operator]
    walk = _Walk(model, example)
    walk.run(forward or model)
    if not walk.chains:
        left = f"; it has weights in {', '.join(walk.unknown)}" if walk.unknown else ""
        raise ConfigurationError(
            f"{type(model).__name__} has no layer that can sleep: sleep needs Linear or Conv2d "
            f"(groups=1) layers that a forward pass reaches, or a synapses() method{left}"
        )
    return walk.chains, walk.unknown


def unknown_layers_warning(unknown: list[str]) -> str:
    """Names all layers that do not sleep."""
    return (
        f"sleep leaves these layers with weights alone: {', '.join(unknown)}. It knows Linear and "
        "Conv2d (groups=1, zero padding) layers."
    )


def chains_of(model: nn.Module, mean_input: Tensor) -> list[Chain]:
    """The chains of a model outside of a training; warns of layers that do not sleep.

    :param mean_input: in the shape of one input.
    :raises InputError: for a mean input that does not fit the model.
    """
    parameter = next(model.parameters(), mean_input)
    example = mean_input.to(parameter.device, parameter.dtype).expand(2, *mean_input.shape)
    shape = tuple(mean_input.shape)
    try:
        chains, unknown = find_chains(model, example)
    except RuntimeError as error:
        raise InputError(
            f"a mean input of shape {shape} does not fit the model: {error}"
        ) from error
    if chains[0].source is None and chains[0].inputs != mean_input.numel():
        raise InputError(
            f"a mean input of shape {shape} does not fit the model, which has {chains[0].inputs} inputs"
        )
    if unknown:
        warn_user(unknown_layers_warning(unknown))
    return chains


def refuse_inner_inputs(chains: Sequence[Chain]) -> None:
    """:raises ConfigurationError: for chains whose inputs only a training can gather."""
    if any(chain.source is not None for chain in chains):
        raise ConfigurationError(
            "the model falls into several chains of layers, each with inputs of its own: use the "
            "SleepReplay plugin, which gathers their statistics"
        )


class _Walk:
    """Collects the modules of a model in the order of execution."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model, self.example = model, example
        self.names = {module: name for name, module in model.named_modules()}
        self.watched, loose = _atoms(model)
        self.done: set[nn.Module] = set()
        self.chains: list[Chain] = []
        self.unknown = [f"{self._named(module)}, its own parameters" for module in loose]
        self.entry = _entry(example)
        # The tensors are kept, so that an address means one tensor for as long as the walk lasts.
        self.tensors: list[Tensor] = [self.entry]
        self.latest: Tensor | None = self.entry
        # Of the latest output, taken at once: an operation in place would hide what follows it.
        self.node: Node | None = self.entry.grad_fn
        self.pooling: list[Pooling] = []
        #: Whether the latest output is the current of the last layer, before any activation.
        self.bare = False

    def run(self, forward: Callable[[Tensor], Any]) -> None:
        hooks = [module.register_forward_hook(self._visit) for module in self.watched]
        try:
            # The autograd graph tells a chain from branches that meet.
            with evaluation_mode(self.model, self.example.device), torch.enable_grad():
                forward(self.entry)
        finally:
            for hook in hooks:
                hook.remove()
        self.unknown += [
            f"{self._named(m)}, whose forward is not called"
            for m in self.watched
            if _owns_weights(m) and m not in self.done
        ]

    def _visit(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        incoming = args[0] if args and isinstance(args[0], Tensor) else None
        outgoing = output if isinstance(output, Tensor) else None
        self.tensors += [t for t in (incoming, outgoing) if t is not None]
        again = module in self.done
        self.done.add(module)
        if not again and outgoing is not None and self._normalises(module, incoming):
            self._fold(module)
            self.latest, self.node, self.bare = outgoing, outgoing.grad_fn, False
            return
        follows = incoming is not None and self._follows(incoming)
        problem = _cannot_sleep(module, incoming)
        self.bare = problem is None and not again and _is_connection(module)
        if incoming is None or outgoing is None:
            self.latest = None
        elif problem is None and not again:
            self._add_layer(module, incoming, follows)
            self.latest = outgoing
        else:
            passes = follows and not (problem is None and again)
            self.latest = outgoing if passes and self._passes(module, incoming, outgoing) else None
        self.node = None if self.latest is None else self.latest.grad_fn
        if problem is not None and _owns_weights(module) and not again:
            self.unknown.append(f"{self._named(module)}{problem}")

    def _normalises(self, module: nn.Module, incoming: Tensor | None) -> bool:
        """Whether a module is batch normalisation of the last layer's current itself."""
        if not (can_be_folded(module) and self.bare and incoming is not None):
            return False
        # An operation between the two, also one in place, would have another node.
        return self.node is not None and incoming.grad_fn is self.node

    def _fold(self, norm: Any) -> None:
        chain = self.chains.pop()
        layers = (*chain.layers[:-1], replace(chain.layers[-1], norm=norm))
        self.chains.append(replace(chain, layers=layers))

    def _passes(self, module: nn.Module, incoming: Tensor, outgoing: Tensor) -> bool:
        """Whether spikes pass through a module that does not sleep."""
        if isinstance(module, POOLINGS):
            self.pooling.append(Pooling(module, tuple(incoming.shape[1:])))
            return True
        return _units(outgoing) == _units(incoming)

    def _follows(self, incoming: Tensor) -> bool:
        """Whether ``incoming`` is the latest output, reshaped or passed through an activation."""
        if self.latest is None or _units(incoming) != _units(self.latest):
            return False
        if self.node is not None and incoming.grad_fn is not None:
            return _made_of(self.node, incoming.grad_fn)
        # Without a graph (under no_grad, say) the memory has to tell.
        address = incoming.data_ptr()
        if address == self.latest.data_ptr():
            return True
        # An earlier tensor taken up again is a branch.
        return all(address != tensor.data_ptr() for tensor in self.tensors[:-2])

    def _add_layer(self, module: nn.Module, incoming: Tensor, follows: bool) -> None:
        pooling = tuple(self.pooling) if follows else ()
        layers = self._layers_of(module, incoming, pooling)
        self.pooling = []
        if follows and self.chains:
            last = self.chains.pop()
            self.chains.append(Chain((*last.layers, *layers), last.source, last.inputs))
        elif follows:
            self.chains.append(Chain(layers, None, _units(self.example)))
        else:
            self.chains.append(Chain(layers, module, _units(incoming)))

    def _layers_of(
        self, module: nn.Module, incoming: Tensor, pooling: tuple[Pooling, ...]
    ) -> tuple[Synapses, ...]:
        name = self.names[module]
        if names_its_synapses(module):
            listed = chain_of_synapses(module.synapses()).layers  # type: ignore[operator]
            named = [replace(layer, name=f"{name}.{layer.name}") for layer in listed]
            return (replace(named[0], pooling=pooling), *named[1:])
        layer = Synapses(
            f"{name}.weight" if name else "weight",
            module.weight,  # type: ignore[arg-type]
            module.bias,  # type: ignore[arg-type]
            kernel=convolution_kernel(module) if isinstance(module, nn.Conv2d) else None,
            pooling=pooling,
            shape=tuple(incoming.shape[1:]),
        )
        return (layer,)

    def _named(self, module: nn.Module) -> str:
        return f"{self.names[module] or 'the model'} ({type(module).__name__})"


def _entry(example: Tensor) -> Tensor:
    """A batch whose way through the model autograd records; not a leaf, so it may change in place."""
    if example.is_floating_point():
        return example.detach().clone().requires_grad_().clone()
    return example


def _made_of(source: Node, node: Node) -> bool:
    """Whether a tensor is a function of one earlier tensor (and of parameters) alone.

    :param source: the node in autograd's graph that made the earlier tensor; :param node: the later's.
    """
    stack, seen, reached = [node], {node}, False
    while stack:
        current = stack.pop()
        if current is source:
            reached = True
            continue
        variable = getattr(current, "variable", None)
        if isinstance(variable, nn.Parameter):
            continue
        if not current.next_functions or current.name().startswith(PRODUCTS):
            return False
        for below, _ in current.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                stack.append(below)
    return reached


def _units(batch: Tensor) -> int:
    """Values per sample."""
    return math.prod(batch.shape[1:])


def _atoms(model: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """The modules to watch, of which none holds another; and containers with weights of their own."""
    # torch's own modules with weights (attention, say) are one layer, whatever they are built of.
    whole = type(model).__module__.startswith("torch.nn.") and _owns_weights(model)
    if (
        whole
        or names_its_synapses(model)
        or _is_connection(model)
        or not any(True for _ in model.children())
    ):
        return [model], []
    watched: list[nn.Module] = []
    loose = [model] if _owns_weights(model) else []
    for child in model.children():
        inner, inner_loose = _atoms(child)
        watched += [module for module in inner if module not in watched]
        loose += inner_loose
    return watched, loose


def names_its_synapses(module: nn.Module) -> bool:
    """Whether a network lists its synapse layers itself, as ours do."""
    return callable(getattr(module, "synapses", None))


def _owns_weights(module: nn.Module) -> bool:
    return (
        names_its_synapses(module)
        or _is_connection(module)
        or any(True for _ in module.parameters(recurse=False))
    )


def _is_connection(module: nn.Module) -> bool:
    """A Linear or Conv2d, or a subclass that computes the same."""
    return any(
        isinstance(module, kind) and type(module).forward is kind.forward
        for kind in (nn.Linear, nn.Conv2d)
    )


def _cannot_sleep(module: nn.Module, incoming: Tensor | None) -> str | None:
    """Why a module with weights cannot sleep, as an addition to its name; None if it can."""
    if incoming is not None and names_its_synapses(module):
        return None
    if can_be_folded(module):
        return ", not directly behind a Linear or Conv2d layer"
    if incoming is None or not _is_connection(module):
        return ""
    if not isinstance(module._parameters.get("weight"), nn.Parameter):
        return ", whose weight is computed"
    if isinstance(module, nn.Conv2d):
        if module.groups != 1:
            return f", groups={module.groups}"
        return None if module.padding_mode == "zeros" else f", {module.padding_mode} padding"
    if _units(incoming) != incoming.shape[-1]:
        return ", applied at several positions"
    return None


def convolution_kernel(module: nn.Conv2d) -> Kernel:
    size: Any = module.kernel_size
    padding: Any = module.padding
    if padding == "valid":
        padding = (0, 0)
    if padding == "same":
        # torch puts the odd pixel at the end.
        total = [d * (k - 1) for d, k in zip(module.dilation, size, strict=True)]
        top, left = (t // 2 for t in total)
        around = (left, total[1] - left, top, total[0] - top)
    else:
        around = (padding[1], padding[1], padding[0], padding[0])
    return Kernel(size, module.stride, around, module.dilation)  # type: ignore[arg-type]
