"""The configuration of a run: validated, written and read as YAML, compared key by key."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from continual_ep.errors import ConfigurationError
from continual_ep.experiments.network_options import NetworkOptions
from continual_ep.experiments.option_types import Count, Options
from continual_ep.experiments.options import (
    RehearsalOptions,
    SleepOptions,
    StreamOptions,
    TrainingOptions,
)
from continual_ep.experiments.rule_options import (
    RULES,
    BPTTOptions,
    EquilibriumPropagationOptions,
    LearningOptions,
)

Arm = Literal["sequential", "sleep", "rehearsal", "rehearsal+sleep"]
ARMS: tuple[Arm, ...] = ("sequential", "sleep", "rehearsal", "rehearsal+sleep")

#: Keys that change where and how fast a run works, not one of its numbers.
WITHOUT_EFFECT = (
    "out",
    "workers",
    "tensorboard",
    "sleep.diary",
    "stream.root",
    "stream.download",
    "stream.images.cache",
    "stream.images.device",
    "stream.images.batch_size",
    "stream.images.workers",
)


class RunConfig(Options):
    """A run: every learning rule x every arm x every seed. The defaults are the demo."""

    stream: StreamOptions = StreamOptions()
    network: NetworkOptions = NetworkOptions()
    learning: list[LearningOptions] = Field(
        default=[EquilibriumPropagationOptions(), BPTTOptions()], min_length=1
    )
    training: TrainingOptions = TrainingOptions()
    sleep: SleepOptions | None = SleepOptions()
    rehearsal: RehearsalOptions | None = RehearsalOptions()
    arms: list[Arm] = Field(default=list(ARMS), min_length=1, description="what is compared")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default=[0, 1, 2],
        min_length=1,
        description="seeds of the runs: a list, or '0:3' for 0, 1, 2",
    )
    evaluate: Literal["test", "validation"] = Field(
        default="test", description="data of the accuracies"
    )
    device: str = Field(default="cpu", description="cpu, cuda or cuda:N")
    threads: Count = Field(default=1, description="threads of each worker")
    workers: Count | Literal["auto"] = Field(
        default="auto", description="processes; auto: one per core"
    )
    tensorboard: bool = Field(default=False, description="write TensorBoard events")
    out: str | None = Field(
        default=None, description="folder; null: runs/<stream>-<hash of the options>"
    )

    @model_validator(mode="before")
    @classmethod
    def _arms_that_are_possible(cls, values: Any) -> Any:
        """Switching sleep or rehearsal off removes their arms, unless arms are asked for by name."""
        if isinstance(values, dict) and "arms" not in values:
            off = [name for name in ("sleep", "rehearsal") if values.get(name, name) is None]
            values = {**values, "arms": [a for a in ARMS if not any(o in a for o in off)]}
        return values

    @field_validator("learning", mode="before")
    @classmethod
    def _learning(cls, value: Any) -> Any:
        return [_rule_options(entry) for entry in (value if isinstance(value, list) else [value])]

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: Any) -> Any:
        return seeds_from(value)

    @field_validator("device")
    @classmethod
    def _device(cls, device: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise ValueError("allowed: cpu, cuda, cuda:N")
        return device

    @field_validator("seeds", "arms")
    @classmethod
    def _once(cls, values: list[Any]) -> list[Any]:
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} given more than once")
        return values

    @model_validator(mode="after")
    def _fits(self) -> "RunConfig":
        for group in ("sleep", "rehearsal"):
            arms = [arm for arm in self.arms if group in arm]
            if arms and getattr(self, group) is None:
                raise ValueError(f"arm {arms[0]!r} needs the group {group}, which is null")
        labels = [label_of(learning) for learning in self.learning]
        if len(set(labels)) < len(labels):
            raise ValueError("learning: two entries have the same name; give each its own label")
        if self.stream.online is not None and self.training.epochs != 1:
            raise ValueError(
                f"stream.online is one pass, but training.epochs is {self.training.epochs}: set it to 1"
            )
        if self.evaluate == "validation" and not self.stream.validation:
            raise ValueError("evaluate is validation, but stream.validation is 0: hold out a part")
        for learning in self.learning:
            _check_rule_fits_network(learning, self.network)
            rates = learning.learning_rates or self.training.learning_rates
            layers = 1 + self.network.depth
            if isinstance(rates, list) and len(rates) != layers:
                raise ValueError(
                    f"{len(rates)} learning_rates for {layers} synapse layers: give one, or {layers}"
                )
        return self

    def to_yaml(self) -> str:
        """The resolved configuration: every key with its value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def identity(self) -> dict[str, Any]:
        """Every key that can change a number, flat and dotted."""
        flat = flattened(self.model_dump(mode="json"))
        return {key: value for key, value in flat.items() if key not in WITHOUT_EFFECT}

    def digest(self) -> str:
        """Eight hexadecimal digits that name the identity."""
        canonical = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]

    def folder(self) -> Path:
        """Where the run is kept: the same options, the same folder."""
        if self.out is not None:
            return Path(self.out)
        return Path("runs") / f"{self.stream.title}-{self.digest()}"


def label_of(learning: LearningOptions) -> str:
    """The name of a learning entry in tables and folders."""
    return learning.label or learning.rule


def network_kind(learning: LearningOptions, network: NetworkOptions) -> str:
    """``"mrnn"``, ``"dendritic"``, ``"convolutional"``, ``"mlp"``, ..."""
    return learning.kinds[0] if network.kind == "auto" else network.kind


def seeds_from(value: Any) -> Any:
    """``"0:3"`` as ``[0, 1, 2]``, ``"4"`` or 4 as ``[4]``; a list as it is.

    :raises ValueError: for any other text.
    """
    if isinstance(value, int):
        return [value]
    if not isinstance(value, str):
        return value
    try:
        numbers = [int(part) for part in value.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        return numbers
    if len(numbers) != 2 or numbers[0] >= numbers[1]:
        raise ValueError(f"{value!r} are no seeds; give a list, one number, or first:end like 0:3")
    return list(range(*numbers))


def _rule_options(entry: Any) -> Any:
    name = entry if isinstance(entry, str) else None
    if isinstance(entry, dict):
        name = entry.get("rule")
    if name is None:
        if isinstance(entry, dict):
            raise ValueError(f"an entry has no rule; choose one of {', '.join(RULES)}")
        return entry
    if name not in RULES:
        raise ValueError(f"rule {name!r} is unknown; choose one of {', '.join(RULES)}")
    return {"rule": name} if isinstance(entry, str) else entry


def _check_rule_fits_network(learning: LearningOptions, network: NetworkOptions) -> None:
    kind = network_kind(learning, network)
    if kind not in learning.kinds:
        raise ValueError(
            f"network.kind is {kind}, but {learning.rule} needs {learning.kinds[0]}: set it, or use auto"
        )
    if kind != "mlp" and network.readout == "straight-through":
        raise ValueError("network.readout straight-through is for an mlp; use linear or activated")
    if kind not in ("mlp", "cnn") and network.activation == "relu":
        raise ValueError("network.activation relu is for an mlp; an mrnn needs a bounded one")
    if learning.needs_target and network.readout == "softmax":
        raise ValueError(f"{learning.rule} knows the output's target: no softmax readout")


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested groups as dotted keys; entries of a list of groups by their number."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = {str(number): item for number, item in enumerate(value)}
        if isinstance(value, dict):
            flat.update(flattened(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def config_from(values: Any, source: str = "the configuration") -> RunConfig:
    """Validates nested plain values.

    :param source: what to call them in a message.
    :raises ConfigurationError: names each key that is wrong and what is allowed.
    """
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"{source} holds a {type(values).__name__}; it must map the keys "
            f"{', '.join(RunConfig.model_fields)}"
        )
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        # Of a union, pydantic tells each branch's objection; one line is enough.
        problems = "\n".join(f"  {text}" for text in _problems(error.errors()))
        raise ConfigurationError(f"{source} cannot work:\n{problems}") from None


def _problems(details: Sequence[Any]) -> list[str]:
    """One line for each key that is wrong."""
    found: dict[tuple[str, str], list[str]] = {}
    for detail in details:
        # Of unions, pydantic also names the branch it tried, such as "list[constrained-int]".
        branches = {*RULES, "int", "float", "str", "bool"}
        parts = [str(part) for part in detail["loc"] if part not in branches]
        place = ".".join(part for part in parts if re.fullmatch(r"\w+", part))
        given = detail["input"]
        shown = "" if isinstance(given, dict | Options) else f" (given: {given!r})"
        message = detail["msg"].removeprefix("Value error, ")
        messages = found.setdefault((place, shown), [])
        shorter = message.removeprefix("Input should be ") if messages else message
        if shorter not in messages:
            messages.append(shorter)
    return [
        f"{place}: {', or '.join(messages)}{shown}" if place else ", or ".join(messages)
        for (place, shown), messages in found.items()
    ]


def read_yaml(path: Path) -> Any:
    """Plain values of a YAML file; an empty file gives none.

    :raises ConfigurationError: for a file that is not there, not readable or not YAML.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not YAML: {error}") from None
    return {} if values is None else values
