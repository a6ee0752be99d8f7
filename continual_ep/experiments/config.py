"""The configuration of a run: validated, written and read as YAML, compared key by key."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from continual_ep.arms import MECHANISMS, Arm, mechanism_class, parse_arms
from continual_ep.arms.arm import split_names
from continual_ep.arms.sleep import Sleep
from continual_ep.errors import ConfigurationError
from continual_ep.experiments.options import StreamOptions, TrainingOptions
from continual_ep.options import (
    Choice,
    Options,
    OptionsError,
    option,
    option_fields,
    options_from,
    plain_values,
    unknown_key_message,
)

#: The arms of the demo.
ARMS = ("sequential", "sleep", "er", "er+sleep")

#: Keys that change where and how fast a run works, not one of its numbers.
WITHOUT_EFFECT = (
    "out",
    "workers",
    "tensorboard",
    "sleep.diary",
    "mechanisms.sleep.diary",
    "stream.root",
    "stream.download",
    "stream.images.cache",
    "stream.images.device",
    "stream.images.batch_size",
    "stream.images.workers",
)


@dataclass(frozen=True)
class LearningEntry(Choice):
    """A learning rule with its options."""

    key: ClassVar[str] = "rule"

    rule: str = option(dataclasses.MISSING, "the learning rule")
    label: str | None = option(
        None,
        "name in tables and folders; null: the rule's name",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._=+-]*$",
    )
    learning_rates: float | list[float] | None = option(
        None, "instead of training.learning_rates", gt=0
    )

    @classmethod
    def choices(cls) -> Mapping[str, type[Options]]:
        from continual_ep.learning import LEARNING_RULES

        return LEARNING_RULES

    def check_combination(self) -> None:
        for field in option_fields(type(self.options)):
            if isinstance(getattr(self.options, field.name), tuple):
                text = "give one number; a list is for the members of an Ensemble, in Python"
                raise OptionsError("LearningEntry", [(field.name, text)])

    @property
    def name(self) -> str:
        """What it is called in tables and folders."""
        return self.label or self.rule


@dataclass(frozen=True)
class NetworkEntry(Choice):
    """A kind of network with its options."""

    key: ClassVar[str] = "kind"

    kind: str = option("auto", "auto: mlp for feed-forward rules, else mrnn")

    @classmethod
    def choices(cls) -> Mapping[str, type[Options]]:
        from continual_ep.experiments.network_options import NETWORK_OPTIONS

        return NETWORK_OPTIONS

    def resolved(self, learning: LearningEntry) -> "NetworkEntry":
        """The network of a learning rule: what "auto" stands for, any other as it is.

        :raises OptionsError: for options that the kind does not take.
        """
        if self.kind != "auto":
            return self
        kind = learning.options.kinds[0]
        names = [field.name for field in option_fields(self.chosen(kind))]
        given = {name: getattr(self.options, name, None) for name in names}
        options = {name: value for name, value in given.items() if value is not None}
        return NetworkEntry(kind, options=options)


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
        raise ValueError(f"give a list, one number, or first:end like 0:3 (given: {value!r})")
    return list(range(*numbers))


def device_from(value: Any) -> Any:
    """The name of a device as it is.

    :raises ValueError: for any other text.
    """
    if isinstance(value, str) and not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        raise ValueError(f"must be cpu, cuda or cuda:N (given: {value!r})")
    return value


def _demo_learning() -> list[LearningEntry]:
    return [LearningEntry("equilibrium-propagation"), LearningEntry("bptt")]


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _names(value: Any) -> Any:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def _mechanisms(value: Any) -> Any:
    """Options of mechanisms by name, checked.

    :raises ConfigurationError: for an unknown name or option.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"must map the names of mechanisms to their options (given: {value!r})")
    for name, options in value.items():
        kind, colon, main = str(name).partition(":")
        if kind not in MECHANISMS:
            raise ValueError(unknown_key_message(kind, MECHANISMS))
        if kind == "sleep" and not colon:
            raise ValueError("the options of sleep stand in the group sleep")
        if not isinstance(options, Mapping):
            raise ValueError(f"{name} must map options to values (given: {options!r})")
        mechanism = mechanism_class(kind)
        given = mechanism.with_main({}, yaml.safe_load(main)) if colon else {}
        options_from(mechanism, {**given, **options})
    return {str(name): dict(options) for name, options in value.items()}


@dataclass(frozen=True)
class RunConfig(Options):
    """A run: every learning rule x every arm x every seed. The defaults are the demo."""

    stream: StreamOptions = option(StreamOptions, "what is learned, and when")
    network: NetworkEntry = option(NetworkEntry, "what is wired to what")
    learning: list[LearningEntry] = option(
        _demo_learning, "learning rules that are compared", convert=_as_list, min_length=1
    )
    training: TrainingOptions = option(TrainingOptions, "how the awake network is trained")
    sleep: Sleep = option(Sleep, "the mechanism sleep")
    mechanisms: dict[str, Any] = option(
        dict, "options of the other mechanisms, by name", convert=_mechanisms
    )
    arms: list[str] = option(
        lambda: list(ARMS),
        "what is compared: mechanisms joined by +, each with an optional value, as er:50+sleep",
        convert=_names,
        min_length=1,
    )
    seeds: list[int] = option(
        lambda: [0, 1, 2, 3, 4],
        "seeds of the runs: a list, or '0:3' for 0, 1, 2",
        convert=seeds_from,
        ge=0,
        min_length=1,
    )
    evaluate: Literal["test", "validation"] = option("test", "data of the accuracies")
    probe: bool = option(
        False, "read out the last hidden layer after each experience; uses old training data"
    )
    device: str = option("cpu", "cpu, cuda or cuda:N", convert=device_from)
    threads: int = option(1, "threads of each worker", ge=1)
    workers: int | Literal["auto"] = option("auto", "processes; auto: one per core", ge=1)
    tensorboard: bool = option(False, "write TensorBoard events")
    out: str | None = option(None, "folder; null: runs/<stream>-<hash of the options>")

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take ``rehearsal``, the old name of ``mechanisms.er``, and groups that are null.

        :raises OptionsError: when it stands beside the new name.
        """
        off = {name for name in ("sleep", "rehearsal") if values.get(name, name) is None}
        values = {key: value for key, value in values.items() if key not in off}
        lost = {"er" if name == "rehearsal" else name for name in off}
        values.setdefault("arms", [arm for arm in ARMS if not lost & set(arm.split("+"))])
        for arm in values["arms"] if isinstance(values["arms"], list) else []:
            without = lost & {part.partition(":")[0] for part in split_names(str(arm))}
            if without:
                text = f"arm {arm!r} needs the group {min(without)}, which is null"
                raise OptionsError(cls.__name__, [("", text)])
        if "rehearsal" in values:
            mechanisms = values.get("mechanisms") or {}
            if "er" in mechanisms:
                text = "rehearsal is the old name of mechanisms.er: give one of the two"
                raise OptionsError(cls.__name__, [("", text)])
            values["mechanisms"] = {**mechanisms, "er": values.pop("rehearsal")}
        return values

    def parsed_arms(self) -> list[Arm]:
        """The arms with their mechanisms.

        :raises ConfigurationError: for names, values or combinations that cannot work.
        """
        return parse_arms(self.arms, {**self.mechanisms, "sleep": plain_values(self.sleep)})

    def check_combination(self) -> None:
        twice = sorted({str(seed) for seed in self.seeds if self.seeds.count(seed) > 1})
        if twice:
            raise ConfigurationError(f"seeds: {', '.join(twice)} given more than once")
        self.parsed_arms()
        names = [learning.name for learning in self.learning]
        if len(set(names)) < len(names):
            raise ConfigurationError(
                "learning: two entries have the same name; give each its own label"
            )
        if self.stream.online is not None and self.training.epochs != 1:
            raise ConfigurationError(
                f"stream.online is one pass, but training.epochs is {self.training.epochs}: set it to 1"
            )
        if self.evaluate == "validation" and not self.stream.validation:
            raise ConfigurationError(
                "evaluate is validation, but stream.validation is 0: hold out a part"
            )
        for learning in self.learning:
            self._check_learning(learning)

    def _check_learning(self, learning: LearningEntry) -> None:
        """Refuse a rule that cannot train the network."""
        rule = learning.options
        network = _located("network", self.network.resolved, learning)
        if network.kind not in rule.kinds:
            raise ConfigurationError(
                f"network.kind is {network.kind}, but {learning.rule} needs {rule.kinds[0]}: set it, "
                "or use auto"
            )
        if rule.needs_target and network.options.readout == "softmax":
            raise ConfigurationError(
                f"{learning.rule} knows the output's target: no softmax readout; network.readout: null "
                "takes the one that fits"
            )
        rates = learning.learning_rates or self.training.learning_rates
        layers = 1 + network.options.depth
        if isinstance(rates, list) and len(rates) != layers:
            raise ConfigurationError(
                f"{len(rates)} learning_rates for {layers} synapse layers: give one, or {layers}"
            )

    def to_yaml(self) -> str:
        """The resolved configuration: every key with its value."""
        return yaml.safe_dump(plain_values(self), sort_keys=False, allow_unicode=True)

    def identity(self) -> dict[str, Any]:
        """Every key that can change a number, flat and dotted."""
        flat = flattened(plain_values(self))
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


def _located(place: str, make: Any, *arguments: Any) -> Any:
    """What ``make`` returns; its objections are said to be about ``place``."""
    try:
        return make(*arguments)
    except OptionsError as error:
        problems = [(f"{place}.{name}".rstrip("."), text) for name, text in error.problems]
        raise OptionsError("RunConfig", problems) from None


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
        names = ", ".join(field.name for field in option_fields(RunConfig))
        raise ConfigurationError(
            f"{source} holds a {type(values).__name__}; it must map the keys {names}"
        )
    try:
        return options_from(RunConfig, values)
    except OptionsError as error:
        lines = [f"{name}: {text}" if name else text for name, text in error.problems]
        problems = "\n".join(f"  {line}" for line in lines)
        raise ConfigurationError(f"{source} cannot work:\n{problems}") from None


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
