"""Options given on the command line, laid over those of a file."""

from collections.abc import Sequence
from typing import Any

import yaml

from continual_ep.errors import ConfigurationError
from continual_ep.experiments.config import RunConfig


def parsed_assignment(text: str) -> tuple[list[str], Any]:
    """``"stream.experiences=2"`` as keys and value; the value is YAML.

    :raises ConfigurationError: for anything else.
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise ConfigurationError(
            f"--set {text!r} is not KEY=VALUE; for example --set stream.experiences=2"
        )
    try:
        return key.strip().split("."), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigurationError(f"--set {key}: {value!r} is not a YAML value") from None


def assign(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Sets a dotted key in place. A number in it counts the entries of a list, as in learning.0.beta.

    :raises ConfigurationError: when the key leads nowhere.
    """
    if keys[0] == "learning":
        values["learning"] = learning_entries(values)
    place: Any = values
    for depth, key in enumerate(keys[:-1]):
        if isinstance(place, dict) and place.get(key) is None:
            place[key] = {}
        place = _entered(place, key, keys[: depth + 1])
    if isinstance(place, dict):
        place[keys[-1]] = value
        return
    _entered(place, keys[-1], keys)  # an index that is out of range is explained there
    place[int(keys[-1])] = value


def _entered(place: Any, key: str, path: Sequence[str]) -> Any:
    name = ".".join(path)
    if isinstance(place, dict):
        return place[key]
    if not isinstance(place, list):
        raise ConfigurationError(f"--set {name}: {'.'.join(path[:-1])} has no keys of its own")
    if not key.isdigit() or int(key) >= len(place):
        raise ConfigurationError(
            f"--set {name}: {'.'.join(path[:-1])} is a list; give the number of an entry, "
            f"0 to {len(place) - 1}"
        )
    return place[int(key)]


def learning_entries(values: dict[str, Any]) -> list[Any]:
    """The learning entries as a list of groups; those of the demo when there are none."""
    entries = values.get("learning")
    if entries is None:
        return [{"rule": entry.rule} for entry in RunConfig().learning]
    entries = entries if isinstance(entries, list) else [entries]
    return [{"rule": entry} if isinstance(entry, str) else entry for entry in entries]


def choose_learning(values: dict[str, Any], names: Sequence[str]) -> None:
    """Keeps the entries so named (with their parameters); a name that is not there is a new rule."""
    known = {
        name: entry
        for entry in reversed(learning_entries(values))
        if isinstance(entry, dict)
        for name in (entry.get("rule"), entry.get("label"))
        if name is not None
    }
    values["learning"] = [known.get(name, name) for name in names]
