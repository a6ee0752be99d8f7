"""Weight averaging: after each experience the weights become the mean over experiences."""

from dataclasses import dataclass

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.errors import ConfigurationError
from continual_ep.learning import BinaryFlips
from continual_ep.options import option


@dataclass(frozen=True)
class WeightAveraging(Mechanism):
    r"""Mean weights over experiences, by :class:`~continual_ep.plugins.WeightAveraging`.

    .. math:: \theta \leftarrow \bar\theta_{k-1} + \lambda_k\,(\theta - \bar\theta_{k-1}), \qquad
              \lambda_k = 1/k \text{ or } \texttt{share}

    after experience k, and after its night; training goes on from the mean. Between experiences
    nothing is kept, as the network itself is the mean; during one, a copy of the weights. Source:
    mean-IMM of Lee et al. 2017 (arXiv:1703.08475). Deviation: there the next experience starts from
    the weights last trained.
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
