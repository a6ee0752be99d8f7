"""The papers behind what the toolkit does, as BibTeX. Nothing here imports torch."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from continual_ep.errors import ConfigurationError


class Paper(NamedTuple):
    """A BibTeX entry.

    :param kind: ``"article"``, ``"inproceedings"`` or ``"misc"``; :param fields: in the order of the entry.
    """

    kind: str
    fields: dict[str, str]


def _article(
    author: str, year: int, title: str, journal: str, volume: str, doi: str, pages: str = ""
) -> Paper:
    more = {"pages": pages} if pages else {}
    own = {"journal": journal, "volume": volume, **more, "year": str(year), "doi": doi}
    return Paper("article", {"author": author, "title": title, **own})


def _arxiv(author: str, year: int, title: str, number: str, venue: str = "") -> Paper:
    more = {"note": venue} if venue else {}
    own = {"year": str(year), "eprint": number, "archivePrefix": "arXiv", **more}
    return Paper("misc", {"author": author, "title": title, **own})


def _talk(author: str, year: int, title: str, venue: str, number: str = "") -> Paper:
    more = {"eprint": number, "archivePrefix": "arXiv"} if number else {}
    return Paper(
        "inproceedings",
        {"author": author, "title": title, "booktitle": venue, "year": str(year), **more},
    )


PAPERS: dict[str, Paper] = {
    "scellier2017": _article(
        "Scellier, Benjamin and Bengio, Yoshua",
        2017,
        "Equilibrium Propagation: Bridging the Gap between Energy-Based Models and Backpropagation",
        "Frontiers in Computational Neuroscience",
        "11",
        "10.3389/fncom.2017.00024",
    ),
    "ernoult2019": _talk(
        "Ernoult, Maxence and Grollier, Julie and Querlioz, Damien and Bengio, Yoshua and Scellier, Benjamin",
        2019,
        "Updates of Equilibrium Prop Match Gradients of Backprop Through Time in an {RNN} with Static Input",
        "Advances in Neural Information Processing Systems 32",
        "1905.13633",
    ),
    "laborieux2021": _article(
        "Laborieux, Axel and Ernoult, Maxence and Scellier, Benjamin and Bengio, Yoshua and Grollier, Julie "
        "and Querlioz, Damien",
        2021,
        "Scaling Equilibrium Propagation to Deep {ConvNets} by Drastically Reducing Its Gradient "
        "Estimator Bias",
        "Frontiers in Neuroscience",
        "15",
        "10.3389/fnins.2021.633674",
    ),
    "ernoult2020": _arxiv(
        "Ernoult, Maxence and Grollier, Julie and Querlioz, Damien and Bengio, Yoshua and Scellier, Benjamin",
        2020,
        "Equilibrium Propagation with Continual Weight Updates",
        "2005.04168",
    ),
    "laborieux2022": _talk(
        "Laborieux, Axel and Zenke, Friedemann",
        2022,
        "Holomorphic Equilibrium Propagation Computes Exact Gradients Through Finite Size Oscillations",
        "Advances in Neural Information Processing Systems 35",
        "2209.00530",
    ),
    "stern2021": _article(
        "Stern, Menachem and Hexner, Daniel and Rocks, Jason W. and Liu, Andrea J.",
        2021,
        "Supervised Learning in Physical Networks: From Machine Learning to Learning Machines",
        "Physical Review X",
        "11",
        "10.1103/PhysRevX.11.021045",
        "021045",
    ),
    "luczak2022": _article(
        "Luczak, Artur and McNaughton, Bruce L. and Kubo, Yoshimasa",
        2022,
        "Neurons learn by predicting future activity",
        "Nature Machine Intelligence",
        "4",
        "10.1038/s42256-021-00430-y",
        "62--72",
    ),
    "xie2003": _article(
        "Xie, Xiaohui and Seung, H. Sebastian",
        2003,
        "Equivalence of Backpropagation and Contrastive {Hebbian} Learning in a Layered Network",
        "Neural Computation",
        "15",
        "10.1162/089976603762552988",
        "441--454",
    ),
    "pineda1987": _article(
        "Pineda, Fernando J.",
        1987,
        "Generalization of back-propagation to recurrent neural networks",
        "Physical Review Letters",
        "59",
        "10.1103/PhysRevLett.59.2229",
        "2229--2232",
    ),
    "rumelhart1986": _article(
        "Rumelhart, David E. and Hinton, Geoffrey E. and Williams, Ronald J.",
        1986,
        "Learning representations by back-propagating errors",
        "Nature",
        "323",
        "10.1038/323533a0",
        "533--536",
    ),
    "kubo2022": _arxiv(
        "Kubo, Yoshimasa and Chalmers, Eric and Luczak, Artur",
        2022,
        "Biologically-inspired neuronal adaptation improves learning in neural networks",
        "2204.14008",
    ),
    "kubo2025": _arxiv(
        "Kubo, Yoshimasa and Delanois, Jean Erik and Bazhenov, Maxim",
        2025,
        "Toward Lifelong Learning in Equilibrium Propagation: Sleep-like and Awake Rehearsal for "
        "Enhanced Stability",
        "2508.14081",
    ),
    "kubo2026dendrites": _arxiv(
        "Kubo, Yoshimasa",
        2026,
        "Dendritic Neural Networks with Equilibrium Propagation",
        "2605.08135",
    ),
    "kubo2026time": _arxiv(
        "Kubo, Yoshimasa and Modi and Patel",
        2026,
        "{arXiv:2603.03402}",
        "2603.03402",
        "on heterogeneous time steps; look its title up",
    ),
    "liu2026": _talk(
        "Liu, Zhuo and Chen, Tao",
        2026,
        "Toward Practical Equilibrium Propagation: Brain-inspired Recurrent Neural Network with Feedback "
        "Regulation and Residual Connections",
        "International Conference on Learning Representations",
        "2508.11659",
    ),
    "lin2025": _arxiv(
        "Lin, Jiaqi and Jiang, Yi and Sengupta, Abhronil",
        2025,
        "{StochEP}: Stochastic Equilibrium Propagation for Spiking Convergent Recurrent Neural Networks",
        "2511.11320",
    ),
    "peters2025": _arxiv(
        "Peters and Talatchian",
        2025,
        "Harnessing uncertainty when learning through Equilibrium Propagation in neural networks",
        "2503.22810",
    ),
    "lv2025": _talk(
        "Lv, Changze and others",
        2025,
        "Dendritic Localized Learning: Toward Biologically Plausible Algorithm",
        "International Conference on Machine Learning, PMLR 267",
        "2501.09976",
    ),
    "meulemans2021": _talk(
        "Meulemans, Alexander and others",
        2021,
        "Credit Assignment in Neural Networks through Deep Feedback Control",
        "Advances in Neural Information Processing Systems 34",
        "2106.07887",
    ),
    "meulemans2022": _talk(
        "Meulemans, Alexander and others",
        2022,
        "Minimizing Control for Credit Assignment with Strong Feedback",
        "International Conference on Machine Learning",
        "2204.07249",
    ),
    "laydevant2021": _talk(
        "Laydevant, J{\\'e}r{\\'e}mie and Ernoult, Maxence and Querlioz, Damien and Grollier, Julie",
        2021,
        "Training Dynamical Binary Neural Networks with Equilibrium Propagation",
        "IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops",
        "2103.08953",
    ),
    "helwegen2019": _talk(
        "Helwegen, Koen and others",
        2019,
        "Latent Weights Do Not Exist: Rethinking Binarized Neural Network Optimization",
        "Advances in Neural Information Processing Systems 32",
        "1906.02107",
    ),
    "dellaferrera2022": _arxiv(
        "Dellaferrera, Giorgia and others",
        2022,
        "Introducing principles of synaptic integration in the optimization of deep neural networks",
        "2104.11604",
        "Nature Communications 13",
    ),
    "farinha2020": _talk(
        "Farinha, Matilde Tristany and Pequito, S{\\'e}rgio and Santos, Pedro A. "
        "and Figueiredo, M{\\'a}rio A. T.",
        2020,
        "Equilibrium Propagation for Complete Directed Neural Networks",
        "European Symposium on Artificial Neural Networks",
        "2006.08798",
    ),
    "tadros2022": _article(
        "Tadros, Timothy and Krishnan, Giri P. and Ramyaa, Ramyaa and Bazhenov, Maxim",
        2022,
        "Sleep-like unsupervised replay reduces catastrophic forgetting in artificial neural networks",
        "Nature Communications",
        "13",
        "10.1038/s41467-022-34938-7",
        "7742",
    ),
    "lomonaco2021": _talk(
        "Lomonaco, Vincenzo and others",
        2021,
        "Avalanche: an End-to-End Library for Continual Learning",
        "IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops",
        "2104.00405",
    ),
}

#: What was used, by the names of registries and options, and the papers that it comes from.
SOURCES: dict[str, tuple[str, ...]] = {
    "equilibrium-propagation": ("scellier2017", "laborieux2021"),
    "bptt": ("ernoult2019",),
    "contrastive-hebbian": ("xie2003",),
    "equilibrium-gradient": ("pineda1987",),
    "backprop": ("rumelhart1986",),
    "holomorphic": ("laborieux2022",),
    "continual": ("ernoult2020",),
    "coupled": ("stern2021",),
    "predictive-hebbian": ("luczak2022",),
    "direct-cost-feedback": (),
    "neuromodulated": (),
    "stochastic": ("lin2025",),
    "dendritic-localized": ("lv2025",),
    "deep-feedback-control": ("meulemans2021",),
    "strong-feedback": ("meulemans2022",),
    "weight-perturbation": (),
    "adaptation": ("kubo2022",),
    "read-noise": ("peters2025",),
    "flips": ("laydevant2021", "helwegen2019"),
    "grapes": ("dellaferrera2022",),
    "mrnn": ("scellier2017", "ernoult2019"),
    "dendritic": ("kubo2026dendrites",),
    "convolutional": ("ernoult2019", "laborieux2021"),
    "feedback-regulated": ("liu2026",),
    "time-steps": ("kubo2026time",),
    "directed": ("farinha2020",),
    "mlp": (),
    "cnn": (),
    "sleep": ("tadros2022",),
    "sleep-of-equilibrium-propagation": ("kubo2025",),
    "avalanche": ("lomonaco2021",),
}


def citation(*names: str) -> str:
    """The papers behind what is named, as BibTeX, each once.

    >>> print(citation("holomorphic").splitlines()[0])
    @inproceedings{laborieux2022,

    :param names: of learning rules, networks, optimizers and options (``"stochastic"``, ``"dendritic"``,
        ``"flips"``, ``"grapes"``, ``"sleep"``, ...); none: all papers.
    :raises ConfigurationError: for a name that is not known.
    """
    unknown = [name for name in names if name not in SOURCES]
    if unknown:
        raise ConfigurationError(
            f"{unknown[0]!r} is unknown; choose of {', '.join(sorted(SOURCES))}"
        )
    keys = [key for name in names for key in SOURCES[name]] if names else list(PAPERS)
    return "\n\n".join(_entry(key) for key in dict.fromkeys(keys)) + ("\n" if keys else "")


def used_by(config: Mapping[str, Any]) -> list[str]:
    """The names of what a resolved configuration uses, for :func:`citation`."""
    network, training = config["network"], config["training"]
    found = ["avalanche"]
    if network["kind"] != "auto":
        found.append(network["kind"])
    rules = config["learning"]
    for rule in rules:
        found.append(rule["rule"])
        options = {
            "adaptation": rule.get("adaptation_steps"),
            "read-noise": rule.get("read_noise"),
            "strong-feedback": rule.get("target") == "label",
        }
        found += [name for name, used in options.items() if used]
    if network.get("time_steps"):
        found.append("time-steps")
    if training["optimizer"] == "flips":
        found.append("flips")
    if training.get("grapes"):
        found.append("grapes")
    if config["sleep"] is not None and _any_arm(config["arms"], "sleep"):
        found.append("sleep")
        if any(rule["rule"] == "equilibrium-propagation" for rule in rules):
            found.append("sleep-of-equilibrium-propagation")
    return list(dict.fromkeys(found))


def _any_arm(arms: Iterable[str], word: str) -> bool:
    return any(word in arm for arm in arms)


def _entry(key: str) -> str:
    paper = PAPERS[key]
    lines = [f"  {name} = {{{value}}}," for name, value in paper.fields.items()]
    return "\n".join([f"@{paper.kind}{{{key},", *lines, "}"])
