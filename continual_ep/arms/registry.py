"""All mechanisms by name. A line here makes one known to the command line, tables and docs."""

from typing import TYPE_CHECKING

from continual_ep.registry import load

if TYPE_CHECKING:
    from continual_ep.arms.mechanism import Mechanism

#: By name: where the class is; or the class itself, as of a user's own. They are installed in this
#: order: what chooses the data first, then sleep, then what looks at the weights after it, and what
#: changes the answers last. Synaptic intelligence integrates over the training and comes before sleep.
MECHANISMS: "dict[str, str | type[Mechanism]]" = {
    "joint": "continual_ep.arms.joint:Joint",
    "cumulative": "continual_ep.arms.cumulative:Cumulative",
    "er": "continual_ep.arms.er:ExperienceReplay",
    "der++": "continual_ep.arms.der:DarkExperienceReplay",
    "er-ace": "continual_ep.arms.er_ace:AsymmetricReplay",
    "gdumb": "continual_ep.arms.gdumb:GDumb",
    "icarl": "continual_ep.arms.icarl:ICaRL",
    "agem": "continual_ep.arms.agem:AveragedGEM",
    "gem": "continual_ep.arms.gem:GEM",
    "si": "continual_ep.arms.si:SynapticIntelligence",
    "labels-trick": "continual_ep.arms.labels_trick:LabelsTrick",
    "freeze": "continual_ep.arms.freeze:FreezeHidden",
    "sleep": "continual_ep.arms.sleep:Sleep",
    "weight-averaging": "continual_ep.arms.weight_averaging:WeightAveraging",
    # After sleep and averaging: they protect the network with which the experience ends.
    "owm": "continual_ep.arms.owm:OrthogonalWeights",
    "ewc": "continual_ep.arms.ewc:EWC",
    "online-ewc": "continual_ep.arms.online_ewc:OnlineEWC",
    "mas": "continual_ep.arms.mas:MemoryAwareSynapses",
    "rwalk": "continual_ep.arms.rwalk:RiemannianWalk",
    "lwf": "continual_ep.arms.lwf:LearningWithoutForgetting",
    "bias-correction": "continual_ep.arms.bias_correction:BiasCorrection",
    "ncm": "continual_ep.arms.ncm:NearestClassMean",
    "slda": "continual_ep.arms.slda:StreamingLDA",
    "random-features": "continual_ep.arms.random_features:RandomFeatures",
}


def mechanism_class(name: str) -> "type[Mechanism]":
    """The class of a mechanism."""
    entry = MECHANISMS[name]
    if not isinstance(entry, str):
        return entry
    kind: type[Mechanism] = load(entry)
    return kind
