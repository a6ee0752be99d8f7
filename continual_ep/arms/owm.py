"""Orthogonal weights modification: learn where earlier inputs were silent."""

from dataclasses import dataclass

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.options import option


@dataclass(frozen=True)
class OrthogonalWeights(Mechanism):
    r"""Orthogonal weights modification (OWM), by :class:`~continual_ep.plugins.OWM`.

    :math:`\Delta W \leftarrow \Delta W\, \alpha (A + \alpha I)^{-1}` with the mean second moment A of
    the presynaptic activity over all experiences so far, and :math:`\alpha` in units of its mean
    eigenvalue. Kept: A of each layer. Source: Zeng et al. 2019 (doi:10.1038/s42256-019-0080-x), who
    use batch means for A and let :math:`\alpha` fall during training. The default strength was chosen
    on held-out images of Split-MNIST (0.01 to 4 tried).
    """

    main = "strength"
    needs = Needs(labels=False, boundaries=True, samples=False)
    takes = frozenset({"gradient"})
    sources = ("zeng2019",)

    strength: float = option(0.5, "alpha, in units of the mean eigenvalue of A", gt=0)

    def install(self, assembly: Assembly) -> None:
        from continual_ep.plugins import OWM

        assembly.add("owm", OWM(self.strength))
