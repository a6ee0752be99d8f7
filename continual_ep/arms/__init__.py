"""Mechanisms against forgetting that can be combined and compared."""

from continual_ep.arms.arm import SEQUENTIAL, Arm, parse_arm, parse_arms
from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs, Stateful, kept_bytes
from continual_ep.arms.registry import MECHANISMS, mechanism_class

__all__ = [
    "MECHANISMS",
    "SEQUENTIAL",
    "Arm",
    "Assembly",
    "Mechanism",
    "Needs",
    "Stateful",
    "kept_bytes",
    "mechanism_class",
    "parse_arm",
    "parse_arms",
]
