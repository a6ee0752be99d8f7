"""Continual learning with sleep: equilibrium propagation and sleep replay for Avalanche.

The names below can be imported from here. Each is loaded when it is first used, so that importing the
package is cheap, and the numerical core works without Avalanche.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from continual_ep.citations import citation

if TYPE_CHECKING:
    from continual_ep.learning import BPTT, EquilibriumPropagation
    from continual_ep.networks import MLP, MRNN
    from continual_ep.plugins import AwakeRehearsal, SleepReplay
    from continual_ep.strategies import BPStrategy, BPTTStrategy, EPStrategy
    from continual_ep.streams import class_incremental

__all__ = [
    "BPTT",
    "MLP",
    "MRNN",
    "AwakeRehearsal",
    "BPStrategy",
    "BPTTStrategy",
    "EPStrategy",
    "EquilibriumPropagation",
    "SleepReplay",
    "__version__",
    "citation",
    "class_incremental",
]

__version__ = "0.1.0"

#: Where the names are that are loaded when they are used.
_PLACES = {
    "learning": ("BPTT", "EquilibriumPropagation"),
    "networks": ("MLP", "MRNN"),
    "plugins": ("AwakeRehearsal", "SleepReplay"),
    "strategies": ("BPStrategy", "BPTTStrategy", "EPStrategy"),
    "streams": ("class_incremental",),
}


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            value = getattr(import_module(f"continual_ep.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'continual_ep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
