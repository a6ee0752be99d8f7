"""Continual learning with sleep: equilibrium propagation and sleep replay for Avalanche."""

__version__ = "0.1.0"
