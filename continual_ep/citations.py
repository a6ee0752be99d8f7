"""The papers behind learning rules, networks, mechanisms and options, as BibTeX.

A class names its papers in ``sources``, a tuple of keys of ``citations.bib``; :data:`SOURCES` holds the
keys of options, and of classes without the attribute.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import Any

from continual_ep.errors import ConfigurationError

#: Dictionaries of classes by name; an entry may be text, ``module:class``.
REGISTRIES = (
    "continual_ep.learning:LEARNING_RULES",
    "continual_ep.networks:NETWORKS",
    "continual_ep.sleep:SLEEP_ALGORITHMS",
    "continual_ep.arms.registry:MECHANISMS",
)

#: Keys by the name of an option, or of a class without ``sources``.
SOURCES: dict[str, tuple[str, ...]] = {
    "strong-feedback": ("meulemans2022",),
    "adaptation": ("kubo2022",),
    "read-noise": ("peters2025",),
    "flips": ("laydevant2021", "helwegen2019"),
    "grapes": ("dellaferrera2022",),
    "mrnn": ("scellier2017", "ernoult2019"),
    "dendritic": ("kubo2026dendrites",),
    "convolutional": ("ernoult2019", "laborieux2021"),
    "feedback-regulated": ("liu2026",),
    "time-steps": ("kubo2026time",),
    "directed": ("farinha2020",),
    "mlp": (),
    "cnn": (),
    "sleep": ("tadros2022",),
    "sleep-of-equilibrium-propagation": ("kubo2025",),
    "avalanche": ("lomonaco2021",),
}


@cache
def papers() -> dict[str, str]:
    """All entries of ``citations.bib`` by key."""
    text = (files("continual_ep") / "citations.bib").read_text(encoding="utf-8")
    entries = [entry.strip() for entry in text.split("\n\n") if entry.strip()]
    return {entry[entry.index("{") + 1 : entry.index(",")]: entry for entry in entries}


def sources_of(name: str) -> tuple[str, ...]:
    """The BibTeX keys of a rule, network, sleep algorithm, mechanism or option.

    :raises ConfigurationError: for an unknown name.
    """
    known = set(SOURCES)
    for registry in REGISTRIES:
        module, _, attribute = registry.partition(":")
        entries: Mapping[str, Any] = getattr(import_module(module), attribute, {})
        if name in entries:
            keys = getattr(_class_of(entries[name]), "sources", None) or SOURCES.get(name, ())
            return tuple(keys)
        known |= set(entries)
    if name not in SOURCES:
        raise ConfigurationError(f"{name!r} is unknown; choose of {', '.join(sorted(known))}")
    return SOURCES[name]


def citation(*names: str) -> str:
    """The papers behind what is named, as BibTeX, each once.

    >>> print(citation("holomorphic").splitlines()[0])
    @inproceedings{laborieux2022,

    :param names: of learning rules, networks, mechanisms, sleep algorithms, optimizers and options
        (``"stochastic"``, ``"dendritic"``, ``"flips"``, ``"sleep"``, ...); none: all papers.
    :raises ConfigurationError: for an unknown name.
    """
    keys = [key for name in names for key in sources_of(name)] if names else list(papers())
    return "\n\n".join(papers()[key] for key in dict.fromkeys(keys)) + ("\n" if keys else "")


def used_by(config: Mapping[str, Any]) -> list[str]:
    """The names of what a resolved configuration uses, for :func:`citation`."""
    network, training = config["network"], config["training"]
    names = ["avalanche"]
    if network["kind"] != "auto":
        names.append(network["kind"])
    rules = config["learning"]
    for rule in rules:
        names.append(rule["rule"])
        options = {
            "adaptation": rule.get("adaptation_steps"),
            "read-noise": rule.get("read_noise"),
            "strong-feedback": rule.get("target") == "label",
        }
        names += [name for name, used in options.items() if used]
    if network.get("time_steps"):
        names.append("time-steps")
    if training["optimizer"] == "flips":
        names.append("flips")
    if training.get("grapes"):
        names.append("grapes")
    names += _mechanisms_of(config["arms"])
    if "sleep" in names and any(rule["rule"] == "equilibrium-propagation" for rule in rules):
        names.append("sleep-of-equilibrium-propagation")
    return list(dict.fromkeys(names))


def _mechanisms_of(arms: Iterable[str]) -> list[str]:
    """The mechanisms in arms such as ``"ewc:100+sleep"``."""
    from continual_ep.arms.registry import MECHANISMS

    parts = [part.partition(":")[0].strip() for arm in arms for part in arm.split("+")]
    return [name for name in parts if name in MECHANISMS]


def _class_of(entry: Any) -> Any:
    if not isinstance(entry, str):
        return entry
    module, _, attribute = entry.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ImportError:  # a mechanism of an extra that is not installed
        return None
