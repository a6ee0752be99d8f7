"""Averaged GEM: steps that do not raise the mean loss of stored samples."""

from dataclasses import dataclass

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.errors import ConfigurationError
from continual_ep.options import option


@dataclass(frozen=True)
class AveragedGEM(Mechanism):
    r"""Averaged gradient episodic memory (A-GEM), by Avalanche's ``AGEMPlugin``.

    .. math:: g \leftarrow g - \frac{\min(0,\, g \cdot r)}{r \cdot r}\, r

    with :math:`r` the gradient of a batch of stored samples, the same number of each earlier
    experience. What is kept are samples and labels. Source: Chaudhry et al. 2019 (arXiv:1812.00420),
    256 samples of each experience and in each batch as for GEM on MNIST. A learning rule's own change
    is projected like a gradient.
    """

    main = "patterns_per_experience"
    needs = Needs(labels=True, boundaries=True, samples=True)
    takes = frozenset({"gradient"})
    sources = ("chaudhry2019agem",)

    patterns_per_experience: int = option(256, "samples kept of each experience", ge=1)
    sample_size: int = option(256, "samples of a batch that gives the reference gradient", ge=1)

    def install(self, assembly: Assembly) -> None:
        from continual_ep.arms.replay_state import agem_state
        from continual_ep.arms.replay_strategies import BatchedAGEM

        earlier = len(assembly.benchmark.train_stream) - 1
        if self.sample_size < earlier:
            # Avalanche would make batches of no samples.
            raise ConfigurationError(
                f"agem.sample_size={self.sample_size} is less than one sample of each of {earlier} "
                f"earlier experiences; use at least {earlier}"
            )
        plugin = BatchedAGEM(self.patterns_per_experience, self.sample_size)
        assembly.add("agem", plugin, agem_state(plugin))
