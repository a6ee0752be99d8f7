"""An arm of a comparison: mechanisms joined by ``+``, such as ``ewc:1000+sleep``."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import yaml

from continual_ep.arms.mechanism import NOTHING, PARTS, Mechanism, Needs
from continual_ep.arms.registry import MECHANISMS, mechanism_class
from continual_ep.errors import ConfigurationError
from continual_ep.options import OptionsError, options_from, unknown_key_message

#: The arm without a mechanism.
SEQUENTIAL = "sequential"

#: Names of earlier versions.
OLD_NAMES = {"rehearsal": "er"}


@dataclass(frozen=True)
class Arm:
    """Mechanisms that work together in one cell.

    :param label: as given, such as ``"er:50+sleep"``; the name in tables and folders.
    :param mechanisms: by name, in the order in which they are installed; none for ``sequential``.
    """

    label: str
    mechanisms: dict[str, Mechanism]

    @property
    def is_reference(self) -> bool:
        """Whether it answers without a trained network."""
        return any(mechanism.is_reference for mechanism in self.mechanisms.values())

    @property
    def needs(self) -> Needs:
        """What its mechanisms use beyond the training itself."""
        needs = [mechanism.needs for mechanism in self.mechanisms.values()]
        return Needs(*(any(column) for column in zip(*needs, strict=True))) if needs else NOTHING

    @property
    def sleeps(self) -> bool:
        """Whether sleep is one of its mechanisms."""
        return "sleep" in self.mechanisms

    def settings(self) -> dict[str, Any]:
        """The options of each mechanism as plain values, by its name."""
        return {name: mechanism.settings() for name, mechanism in self.mechanisms.items()}


def parse_arm(text: str, options: Mapping[str, Mapping[str, Any]] | None = None) -> Arm:
    """Make an arm from its name.

    :param text: names joined by ``+``, each with an optional main value: ``"er:50"``.
    :param options: further options by mechanism, as of a YAML file.
    :raises ConfigurationError: for an unknown name, a value that cannot work, or mechanisms that
        cannot be combined, with the reason.
    """
    options = options or {}
    if not isinstance(text, str) or not text.strip():
        names = ", ".join([SEQUENTIAL, *MECHANISMS])
        raise ConfigurationError(f"arm {text!r} is no name; choose of {names}")
    parts = split_names(text)
    mechanisms: dict[str, Mechanism] = {}
    for part in parts:
        name, mechanism = _mechanism(part, text, options)
        if mechanism is None and len(parts) > 1:
            raise ConfigurationError(
                f"arm {text!r}: {SEQUENTIAL} is the arm without any mechanism and cannot be combined"
            )
        if name in mechanisms:
            raise ConfigurationError(f"arm {text!r} names {name} twice")
        if mechanism is not None:
            mechanisms[name] = mechanism
    _check_combination(text, mechanisms)
    label = "+".join(_renamed(part) for part in parts)
    return Arm(label, dict(sorted(mechanisms.items(), key=lambda item: _place(item[0]))))


def split_names(text: str) -> list[str]:
    """The parts of an arm's name; the plus signs of ``der++`` belong to the name."""
    return [part.strip() for part in re.split(r"(?<!\+)\+(?!\+)|(?<=\+\+)\+", text)]


def label_without(label: str, name: str) -> str | None:
    """The label of an arm without one of its mechanisms; None if it has no such one.

    ``"ewc:10+sleep"`` without ``"sleep"`` is ``"ewc:10"``, ``"sleep"`` is ``"sequential"``.
    """
    parts = split_names(label)
    rest = [part for part in parts if part.partition(":")[0] != name]
    return None if len(rest) == len(parts) else "+".join(rest) or SEQUENTIAL


def _renamed(part: str) -> str:
    name, colon, value = part.partition(":")
    return f"{OLD_NAMES.get(name, name)}{colon}{value.strip()}"


def _place(name: str) -> int:
    """Mechanisms are installed in the order of the registry, whatever the order of the names."""
    return list(MECHANISMS).index(name)


def _mechanism(
    part: str, arm: str, options: Mapping[str, Mapping[str, Any]]
) -> tuple[str, Mechanism | None]:
    name, colon, value = part.partition(":")
    name = OLD_NAMES.get(name, name)
    if name == SEQUENTIAL:
        if colon:
            raise ConfigurationError(f"arm {arm!r}: {SEQUENTIAL} takes no value")
        return name, None
    if name not in MECHANISMS:
        names = [SEQUENTIAL, *MECHANISMS]
        message = unknown_key_message(name, names).replace("unknown key", "unknown mechanism")
        raise ConfigurationError(f"arm {arm!r}: {message}")
    kind = mechanism_class(name)
    values = dict(options.get(name, {}))
    if colon:
        if kind.main is None:
            raise ConfigurationError(f"arm {arm!r}: {name} takes no value after a colon")
        if not value.strip():
            raise ConfigurationError(f"arm {arm!r}: give {name}'s {kind.main} after the colon")
        values = kind.with_main(values, yaml.safe_load(value))
        # Options for this value alone stand under the whole name, as "sleep:downscaling".
        values |= options.get(part, {})
    try:
        return name, options_from(kind, values)
    except OptionsError as error:
        lines = [f"{option or name}: {text}" for option, text in error.problems]
        raise ConfigurationError(f"arm {arm!r}: {name} cannot work: {'; '.join(lines)}") from None


def _check_combination(arm: str, mechanisms: Mapping[str, Mechanism]) -> None:
    for (one, first), (other, second) in combinations(mechanisms.items(), 2):
        sides = ((one, first, other, second), (other, second, one, first))
        for name, mechanism, partner, partner_mechanism in sides:
            if mechanism.is_reference:
                raise ConfigurationError(
                    f"arm {arm!r}: {name} answers without a trained network, so that {partner} "
                    "has nothing to work on; name it as an arm of its own"
                )
            allowed = mechanism.combines_with
            if allowed is not None and partner not in allowed:
                also = f"; it can be combined with {', '.join(sorted(allowed))}" if allowed else ""
                raise ConfigurationError(
                    f"arm {arm!r}: {name} cannot be combined with {partner}{also}"
                )
            reason = mechanism.conflict(partner_mechanism)
            if reason is not None:
                raise ConfigurationError(
                    f"arm {arm!r}: {name} cannot be combined with {partner}: {reason}"
                )
        shared = first.takes & second.takes
        if shared:
            raise ConfigurationError(
                f"arm {arm!r}: {one} and {other} both {PARTS[min(shared)]}; choose one of them"
            )


def parse_arms(
    texts: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Arm]:
    """Make the arms of a comparison.

    :raises ConfigurationError: as of :func:`parse_arm`, and for arms that repeat.
    """
    arms = [parse_arm(text, options) for text in texts]
    for one, other in combinations(arms, 2):
        if one.mechanisms == other.mechanisms:
            same = "" if one.label == other.label else f" and {other.label!r} (the same options)"
            raise ConfigurationError(f"arm {one.label!r}{same} given more than once")
    return arms
