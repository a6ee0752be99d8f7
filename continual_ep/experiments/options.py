"""The options of a run, group by group, with the demo's numbers as defaults."""

from dataclasses import dataclass
from typing import Annotated, Literal

from continual_ep.errors import ConfigurationError
from continual_ep.features import Images
from continual_ep.options import Options, option

Count = Annotated[int, ("ge", 1)]


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
    order_seed: int | Literal["seed"] | None = option(
        "seed",
        "seed of the class order; seed: that of the cell, so that each seed has an order of its own, "
        "shared by all arms and learners; null: the natural order",
        ge=0,
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
    images: Images = option(Images, "how images become inputs")

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
            if self.class_order is not None:
                raise ConfigurationError("class_order belongs to scenario class-incremental")
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
