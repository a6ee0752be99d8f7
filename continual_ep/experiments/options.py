"""The options of a run, group by group, with the demo's numbers as defaults.

Nothing here imports torch: the command line checks a configuration before it starts anything heavy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from continual_ep.errors import ConfigurationError
from continual_ep.options import Options, option, option_fields

Count = Annotated[int, ("ge", 1)]


@dataclass(frozen=True)
class ImageOptions(Options):
    """How images become inputs."""

    size: int | None = option(
        None, "side in pixels of image files, where there is no backbone", ge=1
    )
    backbone: str | None = option(
        None,
        "frozen network whose features are the inputs: mobilenet_v2, resnet50, ..., or module:function",
    )
    weights: str | None = option(
        None, "file of its state dict; null: the published one, if on disk"
    )
    preprocessing: dict[str, Any] | None = option(
        None, "changes to its preprocessing: resize, crop, interpolation, mean, std, turn"
    )
    cache: str = option("cache", "folder where features are kept")
    device: str | None = option(None, "where the backbone computes; null: a GPU if there is one")
    batch_size: int = option(64, "images of a pass of the backbone", ge=1)
    amp: bool = option(False, "half precision in the backbone where it is safe")
    workers: int = option(2, "threads that decode images", ge=1)
    on_corrupt: Literal["raise", "skip"] = option(
        "raise", "images that cannot be decoded: stop, or leave out and list"
    )


@dataclass(frozen=True)
class StreamOptions(Options):
    """What is learned, and when."""

    name: str | list[str] = option(
        "digits",
        "see continual-ep streams; arrays:FILE.npz, image-folder:FOLDER; several for domains: sets",
    )
    scenario: Literal["class-incremental", "domain-incremental"] = option(
        "class-incremental", "new classes, or new looks of the same classes"
    )
    domains: Literal["sets", "permuted", "rotated"] | None = option(
        None, "of domain-incremental; null: sets for several names, else permuted"
    )
    angles: list[float] | None = option(None, "degrees of domains: rotated; null: drawn")
    experiences: Count | list[Count] | list[list[int]] | None = option(
        5, "how many, or a list with the number of classes, or the classes, in each"
    )
    order_seed: int | None = option(
        0, "seed of the class order, not of the run; null: the natural order", ge=0
    )
    class_order: list[int] | None = option(None, "explicit class order, first to last")
    classes: Count | list[int | str] | str | None = option(
        None, "keep so many classes, these, or those named in a file; null: all"
    )
    task_labels: bool = option(False, "label each experience as a task of its own")
    online: int | None = option(
        None, "cut experiences into small ones of so many samples, seen once", ge=1
    )
    overlap: float | None = option(
        None, "online: blurry boundaries, the larger the sharper; null: sharp ones", gt=1
    )
    root: str | None = option(None, "folder of the data sets; null: the default folder")
    download: bool = option(False, "fetch a missing data set, or a backbone's weights")
    validation: float = option(0.0, "part of the training data held out", ge=0, lt=1)
    per_class: int | None = option(None, "keep so many training samples per class", ge=1)
    per_experience: int | None = option(None, "keep so many per experience", ge=1)
    scale: Literal["auto", "max", "none"] = option("auto", "how inputs are scaled")
    standardize: bool = option(
        False, "subtract the training mean, divide by the deviation, per channel"
    )
    images: ImageOptions = option(ImageOptions, "how images become inputs")

    def check_combination(self) -> None:
        if self.overlap is not None and self.online is None:
            raise ConfigurationError(
                "overlap belongs to online streams: set online to a number of samples"
            )
        if self.scenario == "class-incremental":
            for name in ("domains", "angles"):
                if getattr(self, name) is not None:
                    raise ConfigurationError(f"{name} belongs to scenario domain-incremental")
            if isinstance(self.name, list):
                raise ConfigurationError("several names belong to scenario domain-incremental")
        else:
            for name in ("class_order",):
                if getattr(self, name) is not None:
                    raise ConfigurationError(f"{name} belongs to scenario class-incremental")
            if isinstance(self.experiences, list):
                raise ConfigurationError("domain-incremental experiences are a number, not a list")

    @property
    def title(self) -> str:
        """A short name for folders and headings."""
        names = [self.name] if isinstance(self.name, str) else self.name
        short = (name.rpartition(":")[2].rstrip("/").rpartition("/")[2] for name in names)
        return "+".join(name.removesuffix(".npz") for name in short)


@dataclass(frozen=True)
class TrainingOptions(Options):
    """How the awake network is trained in each experience."""

    optimizer: Literal["sgd", "adam", "flips"] = option(
        "sgd", "rule of the steps; flips: binary weights that flip"
    )
    adaptivity: float = option(
        0.001, "part of a new gradient in its running mean; flips only", gt=0, le=1
    )
    threshold: float = option(1e-6, "of that mean, beyond which a weight flips; flips only", gt=0)
    grapes: bool = option(False, "units that matter more learn more")
    learning_rates: float | list[float] = option(0.05, "one, or one per synapse layer", gt=0)
    momentum: float = option(0.0, "sgd only", ge=0, lt=1)
    weight_decay: float = option(0.0, "L2 penalty", ge=0)
    batch_size: int = option(10, "samples of a step", ge=1)
    epochs: int = option(4, "passes through each experience", ge=1)
    loss: Literal["auto", "squared-error", "cross-entropy"] = option(
        "auto", "auto: cross-entropy for a softmax readout, else squared error"
    )
    reset_optimizer: bool = option(False, "forget momentum at each new experience")

    def check_combination(self) -> None:
        if self.optimizer != "sgd" and self.momentum:
            raise ConfigurationError(
                "momentum is an option of sgd; other optimizers have their own"
            )
        if self.optimizer == "flips" and self.weight_decay:
            raise ConfigurationError(
                "weights that flip do not decay: weight_decay is for sgd and adam"
            )


@dataclass(frozen=True)
class RehearsalOptions(Options):
    """Exemplars replayed while awake."""

    per_class: int | None = option(2, "exemplars kept of each class", ge=1)
    total: int | None = option(None, "exemplars kept in all, instead of per_class", ge=1)
    selection: Literal["reservoir", "class-balanced", "herding"] = option(
        "class-balanced", "which samples are kept; reservoir needs total"
    )
    batch_size: int | None = option(
        None, "samples of a mixed batch; null: training.batch_size", ge=1
    )
    share: float | Literal["proportional"] = option(
        0.2, "part of a mixed batch that is exemplars", gt=0, lt=1
    )

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """A total stands instead of the default number per class."""
        if values.get("total") and "per_class" not in values:
            return {**values, "per_class": None}
        return values

    def check_combination(self) -> None:
        if (self.per_class is None) == (self.total is None):
            raise ConfigurationError("give either per_class or total (set the other to null)")


@dataclass(frozen=True)
class SleepOptions(Options):
    """Sleep replay after experiences. A constant left at null is the preset's."""

    when: Literal["every", "last"] | list[int] = option(
        "every", "after which experiences: every, last, or a list from 0", ge=0
    )
    preset: str = option("calibrated", "calibrated, tadros2022:mnist, ...")
    dreams: Literal["mean", "experience-mean", "class-means"] = option("mean", "what is dreamt of")
    hold: int = option(1, "steps for which class-means dreams of one class", ge=1)
    exclude: list[str] = option(list, "names of weights that stay as they are")
    diary: bool = option(False, "write what happened in each night into a file")
    steps: int | None = option(None, "length of the first night", ge=1)
    growth: float | None = option(None, "of each later night", ge=0)
    increase: float | None = option(None, "step up of a synapse", ge=0)
    decrease: float | None = option(None, "step down of a synapse", ge=0)
    gate_width: float | None = option(None, "of the gate, in weight units", gt=0)
    leak: float | None = option(None, "what a membrane keeps in a step", ge=0, le=1)
    time_step: float | None = option(None, "of the sleep, in seconds", gt=0)
    max_rate: float | None = option(None, "Hz, of an input of 1", gt=0)
    window: int | Literal["auto", "whole"] | None = option(
        None, "side of the dreamt image window in pixels", ge=1
    )
    subset: float | None = option(
        None, "part of the inputs that dream in a step, where there is no window", ge=0, le=1
    )
    thresholds: list[float] | Literal["calibrated"] | None = option(None, "one per layer", gt=0)
    gain_scale: float | None = option(None, "of the published layer gains", gt=0)
    firing_rate: float | None = option(None, "calibration of hidden layers", ge=0, le=1)
    output_threshold: float | None = option(None, "calibration of the output", gt=0)
    calibration_steps: int | None = option(None, "steps of the calibration", ge=1)
    feedback: bool | None = option(None, "currents from the layer above")
    biases: Literal["ignore", "current", "zero-output"] | None = option(
        None, "what biases do asleep"
    )
    quiet_steps: int | Literal["never"] | None = option(
        None, "wake up when nobody has fired for so long", ge=1
    )

    def constants(self) -> dict[str, Any]:
        """The constants that replace the preset's, by the names the sleep gives them."""
        # The words stand for None, which already means "the preset's" here.
        words = {"window": "whole", "thresholds": "calibrated", "quiet_steps": "never"}
        plugin = {"when", "preset", "dreams", "hold", "exclude", "diary"}
        names = {field.name for field in option_fields(type(self))} - plugin
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        constants = {n: None if v == words.get(n) else v for n, v in given.items()}
        return {n: tuple(v) if isinstance(v, list) else v for n, v in constants.items()}
