"""Classes by name, from texts: adding one to a registry is one line, with no import beside it."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def load(place: str) -> Any:
    """The class at ``"package.module:Class"``."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def classes(package: str, places: Mapping[str, str]) -> dict[str, Any]:
    """The classes at ``"module:Class"`` of a package, by their names in the registry."""
    return {name: load(f"{package}.{place}") for name, place in places.items()}
