"""The options of a run, group by group, with the demo's numbers as defaults.

Nothing here imports torch: the command line checks a configuration before it starts anything heavy.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from continual_ep.experiments.option_types import (
    Count,
    Fraction,
    NotNegative,
    Options,
    Rate,
    Share,
)


class ImageOptions(Options):
    """How images become inputs."""

    size: Count | None = Field(
        default=None, description="side in pixels of image files, where there is no backbone"
    )
    backbone: str | None = Field(
        default=None,
        description="frozen network whose features are the inputs: mobilenet_v2, resnet50, ..., "
        "or module:function",
    )
    weights: str | None = Field(
        default=None, description="file of its state dict; null: the published one, if on disk"
    )
    preprocessing: dict[str, Any] | None = Field(
        default=None,
        description="changes to its preprocessing: resize, crop, interpolation, mean, std, turn",
    )
    cache: str = Field(default="cache", description="folder where features are kept")
    device: str | None = Field(
        default=None, description="where the backbone computes; null: a GPU if there is one"
    )
    batch_size: Count = Field(default=64, description="images of a pass of the backbone")
    amp: bool = Field(default=False, description="half precision in the backbone where it is safe")
    workers: Count = Field(default=2, description="threads that decode images")
    on_corrupt: Literal["raise", "skip"] = Field(
        default="raise", description="images that cannot be decoded: stop, or leave out and list"
    )


class StreamOptions(Options):
    """What is learned, and when."""

    name: str | list[str] = Field(
        default="digits",
        description="see continual-ep streams; arrays:FILE.npz, image-folder:FOLDER; several for "
        "domains: sets",
    )
    scenario: Literal["class-incremental", "domain-incremental"] = Field(
        default="class-incremental", description="new classes, or new looks of the same classes"
    )
    domains: Literal["sets", "permuted", "rotated"] | None = Field(
        default=None,
        description="of domain-incremental; null: sets for several names, else permuted",
    )
    angles: list[float] | None = Field(
        default=None, description="degrees of domains: rotated; null: drawn"
    )
    experiences: Count | list[Count] | list[list[int]] | None = Field(
        default=5,
        description="how many, or a list with the number of classes, or the classes, in each",
    )
    order_seed: Annotated[int, Field(ge=0)] | None = Field(
        default=0, description="seed of the class order, not of the run; null: the natural order"
    )
    class_order: list[int] | None = Field(
        default=None, description="explicit class order, first to last"
    )
    classes: Count | list[int | str] | str | None = Field(
        default=None, description="keep so many classes, these, or those named in a file; null: all"
    )
    task_labels: bool = Field(
        default=False, description="label each experience as a task of its own"
    )
    online: Count | None = Field(
        default=None, description="cut experiences into small ones of so many samples, seen once"
    )
    overlap: Annotated[float, Field(gt=1)] | None = Field(
        default=None,
        description="online: blurry boundaries, the larger the sharper; null: sharp ones",
    )
    root: str | None = Field(
        default=None, description="folder of the data sets; null: the default folder"
    )
    download: bool = Field(
        default=False, description="fetch a missing data set, or a backbone's weights"
    )
    validation: Fraction = Field(default=0.0, description="part of the training data held out")
    per_class: Count | None = Field(
        default=None, description="keep so many training samples per class"
    )
    per_experience: Count | None = Field(default=None, description="keep so many per experience")
    scale: Literal["auto", "max", "none"] = Field(
        default="auto", description="how inputs are scaled"
    )
    standardize: bool = Field(
        default=False,
        description="subtract the training mean, divide by the deviation, per channel",
    )
    images: ImageOptions = ImageOptions()

    @model_validator(mode="after")
    def _fits_scenario(self) -> "StreamOptions":
        if self.overlap is not None and self.online is None:
            raise ValueError("overlap belongs to online streams: set online to a number of samples")
        if self.scenario == "class-incremental":
            for name in ("domains", "angles"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} belongs to scenario domain-incremental")
            if isinstance(self.name, list):
                raise ValueError("several names belong to scenario domain-incremental")
        else:
            for name in ("class_order",):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} belongs to scenario class-incremental")
            if isinstance(self.experiences, list):
                raise ValueError("domain-incremental experiences are a number, not a list")
        return self

    @property
    def title(self) -> str:
        """A short name for folders and headings."""
        names = [self.name] if isinstance(self.name, str) else self.name
        short = (name.rpartition(":")[2].rstrip("/").rpartition("/")[2] for name in names)
        return "+".join(name.removesuffix(".npz") for name in short)


class TrainingOptions(Options):
    """How the awake network is trained in each experience."""

    optimizer: Literal["sgd", "adam", "flips"] = Field(
        default="sgd", description="rule of the steps; flips: binary weights that flip"
    )
    adaptivity: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.001, description="part of a new gradient in its running mean; flips only"
    )
    threshold: Rate = Field(
        default=1e-6, description="of that mean, beyond which a weight flips; flips only"
    )
    grapes: bool = Field(default=False, description="units that matter more learn more")
    learning_rates: Rate | list[Rate] = Field(
        default=0.05, description="one, or one per synapse layer"
    )
    momentum: Fraction = Field(default=0.0, description="sgd only")
    weight_decay: float = Field(default=0.0, ge=0, description="L2 penalty")
    batch_size: Count = Field(default=10, description="samples of a step")
    epochs: Count = Field(default=4, description="passes through each experience")
    loss: Literal["auto", "squared-error", "cross-entropy"] = Field(
        default="auto", description="auto: cross-entropy for a softmax readout, else squared error"
    )
    reset_optimizer: bool = Field(
        default=False, description="forget momentum at each new experience"
    )

    @model_validator(mode="after")
    def _momentum_needs_sgd(self) -> "TrainingOptions":
        if self.optimizer != "sgd" and self.momentum:
            raise ValueError("momentum is an option of sgd; other optimizers have their own")
        if self.optimizer == "flips" and self.weight_decay:
            raise ValueError("weights that flip do not decay: weight_decay is for sgd and adam")
        return self


class RehearsalOptions(Options):
    """Exemplars replayed while awake."""

    per_class: Count | None = Field(default=2, description="exemplars kept of each class")
    total: Count | None = Field(
        default=None, description="exemplars kept in all, instead of per_class"
    )
    selection: Literal["reservoir", "class-balanced", "herding"] = Field(
        default="class-balanced", description="which samples are kept; reservoir needs total"
    )
    batch_size: Count | None = Field(
        default=None, description="samples of a mixed batch; null: training.batch_size"
    )
    share: Annotated[float, Field(gt=0, lt=1)] | Literal["proportional"] = Field(
        default=0.2, description="part of a mixed batch that is exemplars"
    )

    @model_validator(mode="before")
    @classmethod
    def _total_instead(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("total") and "per_class" not in values:
            return {**values, "per_class": None}
        return values

    @model_validator(mode="after")
    def _one_budget(self) -> "RehearsalOptions":
        if (self.per_class is None) == (self.total is None):
            raise ValueError("give either per_class or total (set the other to null)")
        return self


class SleepOptions(Options):
    """Sleep replay after experiences. A constant left at null is the preset's."""

    when: Literal["every", "last"] | list[Annotated[int, Field(ge=0)]] = Field(
        default="every", description="after which experiences: every, last, or a list from 0"
    )
    preset: str = Field(default="calibrated", description="calibrated, tadros2022:mnist, ...")
    dreams: Literal["mean", "experience-mean", "class-means"] = Field(
        default="mean", description="what is dreamt of"
    )
    hold: Count = Field(default=1, description="steps for which class-means dreams of one class")
    exclude: list[str] = Field(default=[], description="names of weights that stay as they are")
    diary: bool = Field(default=False, description="write what happened in each night into a file")
    steps: Count | None = Field(default=None, description="length of the first night")
    growth: NotNegative | None = Field(default=None, description="of each later night")
    increase: NotNegative | None = Field(default=None, description="step up of a synapse")
    decrease: NotNegative | None = Field(default=None, description="step down of a synapse")
    gate_width: Rate | None = Field(default=None, description="of the gate, in weight units")
    leak: Share | None = Field(default=None, description="what a membrane keeps in a step")
    time_step: Rate | None = Field(default=None, description="of the sleep, in seconds")
    max_rate: Rate | None = Field(default=None, description="Hz, of an input of 1")
    window: Count | Literal["auto", "whole"] | None = Field(
        default=None, description="side of the dreamt image window in pixels"
    )
    subset: Share | None = Field(
        default=None,
        description="part of the inputs that dream in a step, where there is no window",
    )
    thresholds: list[Rate] | Literal["calibrated"] | None = Field(
        default=None, description="one per layer"
    )
    gain_scale: Rate | None = Field(default=None, description="of the published layer gains")
    firing_rate: Share | None = Field(default=None, description="calibration of hidden layers")
    output_threshold: Rate | None = Field(default=None, description="calibration of the output")
    calibration_steps: Count | None = Field(default=None, description="steps of the calibration")
    feedback: bool | None = Field(default=None, description="currents from the layer above")
    biases: Literal["ignore", "current", "zero-output"] | None = Field(
        default=None, description="what biases do asleep"
    )
    quiet_steps: Count | Literal["never"] | None = Field(
        default=None, description="wake up when nobody has fired for so long"
    )

    def constants(self) -> dict[str, Any]:
        """The constants that replace the preset's, by the names the sleep gives them."""
        # The words stand for None, which already means "the preset's" here.
        words = {"window": "whole", "thresholds": "calibrated", "quiet_steps": "never"}
        own = set(type(self).model_fields) - {
            "when",
            "preset",
            "dreams",
            "hold",
            "exclude",
            "diary",
        }
        given = {name: getattr(self, name) for name in own if getattr(self, name) is not None}
        constants = {n: None if v == words.get(n) else v for n, v in given.items()}
        return {n: tuple(v) if isinstance(v, list) else v for n, v in constants.items()}
