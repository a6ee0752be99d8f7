"""Weight averaging: after each experience the weights become the mean over experiences."""

from dataclasses import dataclass

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.errors import ConfigurationError
from continual_ep.learning import BinaryFlips
from continual_ep.options import option


@dataclass(frozen=True)
class WeightAveraging(Mechanism):
    """Mean weights over experiences, by :class:`~continual_ep.plugins.WeightAveraging`.

    The mean is taken after each experience and its night. Formula, source, deviation and what is kept
    stand at the plugin.
    """

    main = "share"
    needs = Needs(labels=False, boundaries=True, samples=False)
    sources = ("lee2017",)

    share: float | None = option(None, "of the new weights in the mean; null: 1/k", gt=0, le=1)

    def install(self, assembly: Assembly) -> None:
        from continual_ep.plugins import WeightAveraging as Plugin

        if isinstance(assembly.optimizer, BinaryFlips):
            raise ConfigurationError(
                "weight-averaging: the mean of binary weights is not binary; use another optimizer"
            )
        assembly.add("weight-averaging", Plugin(share=self.share))
