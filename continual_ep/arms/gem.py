"""Gradient episodic memory: steps that do not raise the loss of any earlier experience."""

from dataclasses import dataclass
from importlib.util import find_spec

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.errors import ConfigurationError
from continual_ep.options import option


@dataclass(frozen=True)
class GEM(Mechanism):
    r"""Gradient episodic memory (GEM), by Avalanche's ``GEMPlugin``.

    .. math:: \min_{\tilde g} \|g - \tilde g\|^2 \quad\text{with}\quad \tilde g \cdot g_k \ge 0

    for the gradient :math:`g_k` of all stored samples of each earlier experience :math:`k`, so that a
    step costs a forward and a backward pass for each of them. What is kept are samples and labels.
    Source: Lopez-Paz and Ranzato 2017 (arXiv:1706.08840): 256 samples of each experience, strength 0.5.
    Deviation: the quadratic programme is scaled by the reference gradients
    (:class:`~continual_ep.arms.replay_strategies.RelativeGEM`).
    """

    main = "patterns_per_experience"
    needs = Needs(labels=True, boundaries=True, samples=True)
    takes = frozenset({"gradient"})
    sources = ("lopezpaz2017",)

    patterns_per_experience: int = option(256, "samples kept of each experience", ge=1)
    strength: float = option(0.5, "least share of each earlier gradient that is added", ge=0)

    def install(self, assembly: Assembly) -> None:
        if find_spec("quadprog") is None or find_spec("qpsolvers") is None:
            raise ConfigurationError(
                "gem solves a quadratic programme with quadprog, which is not installed: "
                "pip install 'continual-ep[gem]'"
            )
        from continual_ep.arms.replay_state import gem_state
        from continual_ep.arms.replay_strategies import RelativeGEM

        plugin = RelativeGEM(self.patterns_per_experience, self.strength)
        assembly.add("gem", plugin, gem_state(plugin))
