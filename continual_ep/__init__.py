"""Continual learning with sleep: equilibrium propagation and sleep replay for Avalanche."""

from continual_ep.citations import citation

__all__ = ["__version__", "citation"]

__version__ = "0.1.0"
