"""The options of a network: its layers, how it settles, what is wired to what. Nothing here imports torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from continual_ep.experiments.option_types import (
    Count,
    Fraction,
    NotNegative,
    Options,
    Rate,
    Share,
)


class TimeStepOptions(Options):
    """One time step for each unit, drawn once."""

    distribution: Literal["uniform", "normal", "log-normal", "gamma", "inverse-gamma"] = Field(
        default="log-normal", description="of the time steps"
    )
    mean: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.5, description="of the time steps")
    spread: Rate = Field(default=0.3, description="coefficient of variation")
    smallest: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.01, description="cut below")
    same_mean: bool = Field(
        default=True, description="rescale each layer to the mean after cutting"
    )


class DendriteOptions(Options):
    """Dendritic branches."""

    branches: Count = Field(default=8, description="basal branches of each unit")
    fan_in: Count | Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="synapses of a branch: a share of the units below, or a number"
    )
    apical: Count = Field(default=2, description="apical branches, where feedback is not tied")
    apical_fan_in: Count | Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="synapses of an apical branch; null: as fan_in"
    )
    cables: bool = Field(default=False, description="learn the weights from branches to soma")
    gain: Rate | list[Rate] = Field(
        default=1.0, description="scale of the initial weights; one, or per layer"
    )
    bias: bool = Field(default=True, description="give branches biases, as published")
    sampling: Literal["random", "soma-field", "branch-field"] = Field(
        default="random", description="which inputs a branch of the first layer gets"
    )


class ConvolutionOptions(Options):
    """Convolutional layers."""

    channels: list[Count] = Field(default=[32, 64], description="of each layer", min_length=1)
    kernel: Count | list[Count] = Field(default=5, description="side in pixels; one, or per layer")
    padding: Annotated[int, Field(ge=0)] | list[Annotated[int, Field(ge=0)]] = Field(
        default=0, description="zeros on each side; one, or per layer"
    )
    pool: Literal["max", "average", "soft", "none"] = Field(
        default="max", description="after each convolution"
    )
    pool_size: Count = Field(default=2, description="side of its windows")
    bias: bool = Field(default=True, description="give channels and readout biases")


class NetworkOptions(Options):
    """What is wired to what."""

    kind: Literal[
        "auto", "mrnn", "dendritic", "convolutional", "feedback-regulated", "mlp", "cnn"
    ] = Field(default="auto", description="auto: mlp for feed-forward rules, else mrnn")
    residuals: bool = Field(
        default=False, description="symmetric skips of three layers; feedback-regulated only"
    )
    random_links: Share = Field(
        default=0.0, description="probability of further connections; feedback-regulated only"
    )
    dendrites: DendriteOptions = DendriteOptions()
    convolutions: ConvolutionOptions = ConvolutionOptions()
    hidden: list[Count] = Field(
        default=[100], description="units of the hidden layers; not of kind convolutional"
    )
    activation: (
        Literal["hard-sigmoid", "shifted-sigmoid", "tanh", "clipped-relu", "relu"] | None
    ) = Field(
        default=None, description="of the hidden layers; null: hard-sigmoid (mrnn) or relu (mlp)"
    )
    readout: Literal["linear", "activated", "softmax", "straight-through"] | None = Field(
        default=None,
        description="null: activated (mrnn) or linear (mlp); straight-through: mlp only",
    )
    bias: bool = Field(default=False, description="give every layer biases")
    gain: Rate | list[Rate] = Field(
        default=0.45,
        description="scale of the initial weights; one, or per layer; not of dendrites",
    )
    feedback: Literal["tied", "untied", "random", "none"] = Field(
        default="tied", description="weights back down; none: not of an mrnn; not of an mlp"
    )
    feedback_scale: NotNegative | list[NotNegative] = Field(
        default=1.0, description="in front of what comes back; one, or per layer; not of an mlp"
    )
    order: Literal["red-black", "synchronous", "sweep"] = Field(
        default="red-black", description="order of updates; not of an mlp"
    )
    dt: float = Field(
        default=1.0, gt=0, le=1, description="time step, 1 = discrete map; not of an mlp"
    )
    time_steps: TimeStepOptions | None = Field(
        default=None, description="one time step for each unit instead of dt; null: dt"
    )
    products: Literal["float32", "tf32", "bfloat16"] = Field(
        default="float32", description="bits of products while settling; not of an mlp"
    )
    cuda_graphs: bool = Field(
        default=False, description="record the phases of a step (CUDA graphs); not of an mlp"
    )
    dropout: Fraction = Field(
        default=0.0, description="probability of silencing a hidden unit; mlp only"
    )
    dropout_rescale: Literal["training", "evaluation"] = Field(
        default="training",
        description="training: as torch; evaluation: the original dropout; mlp only",
    )
    init: Rate | None = Field(
        default=None, description="draw weights from U(-init, init); mlp only"
    )

    @property
    def depth(self) -> int:
        """Layers between input and output."""
        if self.kind == "convolutional":
            return len(self.convolutions.channels)
        extra = len(self.convolutions.channels) if self.kind == "cnn" else 0
        return extra + len(self.hidden)

    @model_validator(mode="after")
    def _fits_kind(self) -> "NetworkOptions":
        settling = (
            *("feedback", "feedback_scale", "order", "dt", "time_steps"),
            *("products", "cuda_graphs"),
        )
        forward = ("dropout", "dropout_rescale", "init")
        own = {
            "dendrites": "dendritic",
            "convolutions": "convolutional",
            "residuals": "feedback-regulated",
            "random_links": "feedback-regulated",
        }
        foreign = {
            "mlp": {**dict.fromkeys(settling, "mrnn"), **own},
            "mrnn": {**dict.fromkeys(forward, "mlp"), **own},
            "dendritic": {**dict.fromkeys(forward, "mlp"), "gain": "mrnn", "bias": "mrnn"},
            "cnn": {**dict.fromkeys((*settling, *forward), "mrnn"), **own, "bias": "mrnn"},
            "convolutional": {**dict.fromkeys(forward, "mlp"), "hidden": "mrnn", "bias": "mrnn"},
            "feedback-regulated": {
                **dict.fromkeys((*forward, "bias", "gain"), "mrnn"),
                "bias": "mrnn",
            },
        }
        foreign["cnn"].pop("convolutions")
        for kind in set(own.values()):
            foreign[kind] |= {key: word for key, word in own.items() if word != kind}
        for name, other in foreign.get(self.kind, {}).items():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is an option of kind {other}, not of kind {self.kind}")
        if self.time_steps is not None and self.dt != 1.0:
            raise ValueError("give either dt or time_steps")
        if self.feedback == "none" and self.kind not in own.values():
            raise ValueError(f"feedback none is not for kind {self.kind}; use feedback_scale 0")
        if self.kind in own.values() and isinstance(self.feedback_scale, list):
            raise ValueError(f"kind {self.kind} takes one feedback_scale")
        if self.kind == "convolutional" and isinstance(self.gain, list):
            raise ValueError("kind convolutional takes one gain")
        return self
