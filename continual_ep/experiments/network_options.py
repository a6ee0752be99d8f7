"""The options of each kind of network, and the network that they make."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from continual_ep.errors import ConfigurationError
from continual_ep.options import Options, option, option_fields
from continual_ep.relaxation import Relaxation, TimeSteps

HiddenActivation = Literal["hard-sigmoid", "shifted-sigmoid", "tanh", "clipped-relu"]
FeedforwardActivation = Literal["relu", "hard-sigmoid", "shifted-sigmoid", "tanh", "clipped-relu"]
FanIn = Annotated[int, ("ge", 1)] | Annotated[float, ("gt", 0), ("le", 1)]


@dataclass(frozen=True)
class NetworkOptions(Options, ABC):
    """What a network of some kind is made of."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """Layers between input and output."""

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of the network's class; groups within are laid flat."""
        values: dict[str, Any] = {}
        for field in option_fields(type(self)):
            value = getattr(self, field.name)
            if isinstance(value, Options) and not isinstance(value, TimeSteps):
                values |= {f.name: getattr(value, f.name) for f in option_fields(type(value))}
            else:
                values[field.name] = value
        return values

    @abstractmethod
    def arguments(
        self, inputs: int, outputs: int, image_shape: tuple[int, ...] | None
    ) -> tuple[list[Any], dict[str, Any]]:
        """Arguments of the network's class, but for learning rule and generator.

        :param inputs: values of one sample; :param outputs: classes of the whole stream.
        :param image_shape: ``(h, w)`` or ``(c, h, w)``; None for what is no image.
        :raises ConfigurationError: convolutions of what is no image.
        """


@dataclass(frozen=True)
class DenseOptions(NetworkOptions):
    """What all networks have whose hidden layers are dense."""

    hidden: list[int] = option(lambda: [512], "units of the hidden layers", ge=1)

    @property
    def depth(self) -> int:
        return len(self.hidden)

    def arguments(
        self, inputs: int, outputs: int, image_shape: tuple[int, ...] | None
    ) -> tuple[list[Any], dict[str, Any]]:
        keywords = self.keywords()
        return [[inputs, *keywords.pop("hidden"), outputs]], keywords


@dataclass(frozen=True)
class SettlingOptions(Relaxation, NetworkOptions):
    """What all networks have that settle."""

    activation: HiddenActivation = option("hard-sigmoid", "of the hidden layers")
    readout: Literal["linear", "activated", "softmax"] | None = option(
        None,
        "null: softmax, logits outside of the dynamics, for cross-entropy; or activated, for rules that "
        "hold the output at its target",
    )
    feedback: Literal["tied", "untied", "random", "none"] = option("tied", "weights back down")
    feedback_scale: float = option(1.0, "in front of what comes back", ge=0)
    time_steps: TimeSteps | None = option(
        None, "one time step for each unit instead of dt; null: dt"
    )

    def check_combination(self) -> None:
        if self.time_steps is not None and self.dt != 1.0:
            raise ConfigurationError("give either dt or time_steps")

    def keywords(self) -> dict[str, Any]:
        values = super().keywords()
        settling = Relaxation(**{f.name: values.pop(f.name) for f in option_fields(Relaxation)})
        time_steps = values.pop("time_steps")
        drawn = {} if time_steps is None else {"dt": time_steps}
        return {**values, **drawn, "relaxation": settling}


@dataclass(frozen=True)
class MRNNOptions(SettlingOptions, DenseOptions):
    """A multilayer recurrent network."""

    bias: bool = option(False, "give every layer biases")
    gain: float | list[float] = option(
        0.45, "scale of the initial weights; one, or per layer", gt=0
    )
    feedback: Literal["tied", "untied", "random"] = option("tied", "weights back down")
    feedback_scale: float | list[float] = option(  # type: ignore[assignment]
        1.0, "in front of what comes back; one, or per layer", ge=0
    )


@dataclass(frozen=True)
class DendriteOptions(Options):
    """Dendritic branches."""

    branches: int = option(8, "basal branches of each unit", ge=1)
    fan_in: FanIn = option(0.5, "synapses of a branch: a share of the units below, or a number")
    apical: int = option(2, "apical branches, where feedback is not tied", ge=1)
    apical_fan_in: FanIn | None = option(None, "synapses of an apical branch; null: as fan_in")
    cables: bool = option(False, "learn the weights from branches to soma")
    gain: float | list[float] = option(1.0, "scale of the initial weights; one, or per layer", gt=0)
    bias: bool = option(True, "give branches biases, as published")
    sampling: Literal["random", "soma-field", "branch-field"] = option(
        "random", "which inputs a branch of the first layer gets"
    )


@dataclass(frozen=True)
class DendriticOptions(SettlingOptions, DenseOptions):
    """A recurrent network with dendrites."""

    hidden: list[int] = option(lambda: [100], "units of the hidden layers", ge=1)
    dendrites: DendriteOptions = option(DendriteOptions, "dendritic branches")


@dataclass(frozen=True)
class KernelOptions(Options):
    """Convolutional layers of a feed-forward network."""

    channels: list[int] = option(lambda: [32, 64], "of each layer", ge=1, min_length=1)
    kernel: int | list[int] = option(5, "side in pixels; one, or per layer", ge=1)
    padding: int | list[int] = option(0, "zeros on each side; one, or per layer", ge=0)
    pool: Literal["max", "average", "none"] = option("max", "after each convolution, 2 by 2")
    bias: bool = option(True, "give channels and units biases")


@dataclass(frozen=True)
class ConvolutionOptions(KernelOptions):
    """Convolutional layers of a recurrent network."""

    pool: Literal["max", "average", "soft", "none"] = option("max", "after each convolution")  # type: ignore[assignment]
    pool_size: int = option(2, "side of its windows", ge=1)


@dataclass(frozen=True)
class ConvolutionalOptions(SettlingOptions):
    """A convolutional recurrent network."""

    convolutions: ConvolutionOptions = option(ConvolutionOptions, "convolutional layers")
    gain: float = option(0.45, "scale of the initial weights", gt=0)

    @property
    def depth(self) -> int:
        return len(self.convolutions.channels)

    def arguments(
        self, inputs: int, outputs: int, image_shape: tuple[int, ...] | None
    ) -> tuple[list[Any], dict[str, Any]]:
        keywords = self.keywords()
        shape = _needed("convolutional", image_shape)
        return [shape, keywords.pop("channels"), outputs], keywords


@dataclass(frozen=True)
class FeedbackRegulatedOptions(SettlingOptions, DenseOptions):
    """A chain with scaled feedback and skips (FRE-RNN)."""

    residuals: bool = option(False, "symmetric skips of three layers")
    random_links: float = option(0.0, "probability of further connections", ge=0, le=1)
    activation: HiddenActivation = option("tanh", "of the hidden layers")
    readout: Literal["softmax"] = option(  # type: ignore[assignment]
        "softmax", "logits outside of the dynamics"
    )
    feedback_scale: float = option(0.01, "in front of what comes back", ge=0)
    order: Literal["red-black", "synchronous", "sweep"] = option("synchronous", "order of updates")

    def keywords(self) -> dict[str, Any]:
        return {name: v for name, v in super().keywords().items() if name != "readout"}


@dataclass(frozen=True)
class MLPOptions(DenseOptions):
    """A multilayer perceptron."""

    activation: FeedforwardActivation = option("relu", "of the hidden layers")
    readout: Literal["linear", "activated", "straight-through", "softmax"] = option(
        "linear", "straight-through: activated, learning as if linear; softmax: logits"
    )
    bias: bool = option(False, "give every layer biases")
    gain: float | list[float] = option(
        0.45, "scale of the initial weights; one, or per layer", gt=0
    )
    dropout: float = option(0.0, "probability of silencing a hidden unit", ge=0, lt=1)
    dropout_rescale: Literal["training", "evaluation"] = option(
        "training", "training: as torch; evaluation: the original dropout"
    )
    init: float | None = option(None, "draw weights from U(-init, init)", gt=0)


@dataclass(frozen=True)
class CNNOptions(DenseOptions):
    """Feed-forward convolutions and dense layers."""

    hidden: list[int] = option(lambda: [100], "units of the hidden layers", ge=1)
    convolutions: KernelOptions = option(KernelOptions, "convolutional layers")
    activation: FeedforwardActivation = option("relu", "of the hidden layers")
    readout: Literal["linear"] = option("linear", "logits")
    gain: float = option(0.45, "scale of the initial weights", gt=0)

    @property
    def depth(self) -> int:
        return len(self.convolutions.channels) + len(self.hidden)

    def arguments(
        self, inputs: int, outputs: int, image_shape: tuple[int, ...] | None
    ) -> tuple[list[Any], dict[str, Any]]:
        keywords = self.keywords()
        del keywords["readout"]
        return [_needed("cnn", image_shape), keywords.pop("channels"), outputs], keywords


@dataclass(frozen=True)
class AutoOptions(MRNNOptions, MLPOptions):
    """An mlp for feed-forward rules and an mrnn for others; each takes the options that it has."""

    activation: FeedforwardActivation | None = option(  # type: ignore[assignment]
        None, "of the hidden layers; null: hard-sigmoid (mrnn) or relu (mlp)"
    )
    readout: Literal["linear", "activated", "straight-through", "softmax"] | None = option(  # type: ignore[assignment]
        None, "null: that of an mrnn, or linear (mlp)"
    )


def _needed(kind: str, image_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    if image_shape is None:
        raise ConfigurationError(f"network.kind {kind} needs images; these are features")
    return image_shape


#: By kind; a line here and one in ``continual_ep.networks.NETWORKS`` make a kind known.
NETWORK_OPTIONS: dict[str, type[NetworkOptions]] = {
    "auto": AutoOptions,
    "mrnn": MRNNOptions,
    "dendritic": DendriticOptions,
    "convolutional": ConvolutionalOptions,
    "feedback-regulated": FeedbackRegulatedOptions,
    "mlp": MLPOptions,
    "cnn": CNNOptions,
}
