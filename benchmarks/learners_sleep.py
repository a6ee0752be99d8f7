"""Every learner without sleep, with sleep and with replay: Split-MNIST, five experiences of two classes.

    OMP_NUM_THREADS=1 python benchmarks/learners_sleep.py --data DATA --out OUT [NAME ...]

DATA holds MNIST/raw; the first --images images of each experience are learned, and each seed has its own
class order, shared by all arms and learners. Each learner is a run of ``continual-ep`` in OUT/NAME, which
resumes when the command is repeated. --validation measures on held-out training images instead of the test
set. Prints a table and writes OUT/table.md: accuracy on the newest classes after each experience, in the
first arm, which shows whether the learner learns; accuracy on all classes at the end, with its interval over
seeds; what sleep adds, paired by seed. The last column names arms in which sleep takes more than the spread.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from continual_ep.arms.arm import label_without
from continual_ep.atomic_files import write_text
from continual_ep.experiments.compare import Comparison
from continual_ep.experiments.config import config_from
from continual_ep.experiments.run import run
from continual_ep.metrics import Interval

EP = {"rule": "equilibrium-propagation"}
LONGER = {**EP, "free_steps": 20, "nudged_steps": 8}
LAYERED = {"hidden": [512]}
#: Of rules that hold the output at its target, with squared error; their rates are lower at the output.
HELD = {**LAYERED, "readout": "activated"}
DENDRITES = {"kind": "dendritic", "hidden": [256]}
#: One hidden layer below a softmax readout would have no feedback at all.
PUBLISHED = {**DENDRITES, "readout": "activated", "feedback": "untied", "feedback_scale": 0.2}
FEEDFORWARD = {"hidden": [512], "readout": "linear", "gain": 1.0}
SLOW, FAST = [0.045, 0.009], [0.4, 0.05]

#: Network, learning rule, learning rates of each learner, and further options of the training.
LEARNERS = {
    "EP": (LAYERED, EP, 0.1),
    "BPTT": (LAYERED, {"rule": "bptt"}, 0.1),
    "EP, heterogeneous time steps": (
        {**LAYERED, "order": "synchronous", "time_steps": {"mean": 0.6, "spread": 0.3}},
        {**EP, "free_steps": 30, "nudged_steps": 12},
        0.1,
    ),
    "EP, adjusted adaptation": (LAYERED, {**EP, "adaptation_steps": 5}, 0.1),
    "contrastive Hebbian": (
        {**HELD, "feedback_scale": 0.3},
        {"rule": "contrastive-hebbian", "free_steps": 12, "clamped_steps": 8},
        SLOW,
    ),
    "dendritic EP": (PUBLISHED, {**LONGER, "beta": 0.15}, FAST),
    "dendritic EP, tied": (DENDRITES, LONGER, 0.4),
    "dendritic BPTT": (PUBLISHED, {"rule": "bptt", "free_steps": 20, "backward_steps": 8}, FAST),
    "FRE-RNN, repaired": (
        {**LAYERED, "activation": "hard-sigmoid", "feedback_scale": 0.05},
        {
            "rule": "linear-response",
            "free_steps": 12,
            "response_steps": 4,
            "update": "postsynaptic",
            "corrected": True,
        },
        0.1,
    ),
    "convolutional EP": (
        {
            "kind": "convolutional",
            "gain": 0.6,
            "convolutions": {"channels": [8, 16], "kernel": 5},
        },
        {**LONGER, "tolerance": 0.001},
        0.1,
    ),
    "EP, read with noise": (LAYERED, {**EP, "nudging": "force", "read_noise": 0.001}, 0.1),
    "EP, GRAPES": (LAYERED, EP, 0.1, {"grapes": True}),
    "EP, binary synapses": (
        LAYERED,
        EP,
        [0.01, 0.01],
        {"optimizer": "flips", "adaptivity": 0.001, "threshold": 3e-6},
    ),
    "stochastic EP": (
        {**LAYERED, "activation": "shifted-sigmoid", "dt": 0.5, "order": "synchronous"},
        {
            "rule": "stochastic",
            "beta": 0.3,
            "free_steps": 20,
            "nudged_steps": 12,
            "nudging": "force",
        },
        0.1,
    ),
    "holomorphic EP": (
        {**LAYERED, "activation": "shifted-sigmoid"},
        {"rule": "holomorphic", "points": 4, "free_steps": 12, "nudged_steps": 6},
        0.1,
    ),
    "continual EP": (
        LAYERED,
        {"rule": "continual", "rate": 0.0005, "free_steps": 12, "nudged_steps": 6},
        0.1,
    ),
    "coupled learning": (
        {**HELD, "feedback_scale": 0.3},
        {"rule": "coupled", "free_steps": 12, "clamped_steps": 8},
        SLOW,
    ),
    "bioCHL": (
        {**HELD, "activation": "shifted-sigmoid", "dt": 0.2, "order": "synchronous"},
        {"rule": "predictive-hebbian", "free_steps": 40, "clamped_steps": 40, "seen_steps": 8},
        SLOW,
    ),
    "direct cost feedback": (
        {**LAYERED, "gain": 1.0},
        {"rule": "direct-cost-feedback", "free_steps": 12},
        0.1,
    ),
    "NEL": ({**HELD, "gain": 1.0}, {"rule": "neuromodulated", "free_steps": 12}, [0.3, 0.06]),
    "backprop": ({**FEEDFORWARD, "readout": "softmax"}, {"rule": "backprop"}, 0.05),
    # Backward weights drawn by the fan-out are larger than the forward ones, and so are the errors.
    "DLL": (FEEDFORWARD, {"rule": "dendritic-localized"}, [0.004, 0.009]),
    "DLL, Kolen-Pollack": (
        FEEDFORWARD,
        {
            "rule": "dendritic-localized",
            "backward_learning": "kolen-pollack",
            "backward_rate": 1.0,
            "decay": 0.001,
        },
        [0.009, 0.009],
    ),
    "DLL, convolutional": (
        {
            "kind": "cnn",
            "hidden": [128],
            "gain": 1.0,
            "convolutions": {"channels": [8, 16], "kernel": 5, "bias": False},
        },
        {"rule": "dendritic-localized"},
        [0.005, 0.005, 0.005, 0.01],
    ),
    "DFC": (FEEDFORWARD, {"rule": "deep-feedback-control", "leak": 10.0}, [0.45, 0.09]),
    "weight perturbation": (
        FEEDFORWARD,
        {"rule": "weight-perturbation", "draws": 20},
        [0.001, 0.001],
        {"optimizer": "adam"},
    ),
}
ARMS = ["sequential", "sleep", "er:20", "er:20+sleep"]


def configuration(name: str, args: argparse.Namespace) -> dict:
    network, learning, rates, *more = LEARNERS[name]
    stream = {"name": "mnist", "root": args.data, "experiences": 5, "order_seed": "seed"}
    stream["per_experience"] = args.images
    if args.validation:
        stream["validation"] = 1 / 6
    return {
        "stream": stream,
        "network": network,
        "learning": [learning],
        "training": {
            "learning_rates": rates,
            # A hundred steps in each experience of a thousand images or more.
            "batch_size": max(10, args.images // 100),
            "epochs": 1,
            **(more[0] if more else {}),
        },
        "mechanisms": {"er": {"share": 0.5}},
        "arms": args.arms.split(","),
        "seeds": args.seeds,
        "evaluate": "validation" if args.validation else "test",
        "workers": args.workers,
        "out": str(args.out / name.replace(", ", "-").replace(" ", "-")),
    }


def row_of(name: str, comparison: Comparison, arms: Sequence[str]) -> str:
    """Accuracies of the arms, and what nights add to each, with a mark where they take."""
    learner = comparison.names[0]
    groups = {group.arm: group for group in comparison.of(learner)}
    newest = [
        float(np.diagonal(result.record.awake).mean())
        for result in groups[arms[0]].results.values()
    ]
    cells = [name, f"{100 * np.mean(newest):.1f}"]
    for arm in arms:
        interval = groups[arm].interval("pooled_accuracy")
        cells.append("–" if interval is None else _with_width(100 * interval.mean, interval))
    below = []
    for arm, than in pairs_of(arms):
        difference = comparison.difference(learner, arm, than)
        assert difference is not None
        interval = difference.interval
        cells.append(_with_width(100 * interval.mean, interval, sign="+"))
        if interval.high < 0:
            below.append(arm)
    cells.append(", ".join(below))
    return "| " + " | ".join(cells) + " |"


def _with_width(mean: float, interval: Interval, sign: str = "") -> str:
    width = 100 * interval.half_width
    return f"{mean:{sign}.1f}" + (f" ± {width:.1f}" if math.isfinite(width) else "")


def pairs_of(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Each arm with sleep, and the same without."""
    pairs = [(arm, label_without(arm, "sleep")) for arm in arms]
    return [(arm, than) for arm, than in pairs if than is not None and than in arms]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0:3")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--images", type=int, default=1000, help="of each experience")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--validation", action="store_true")
    args = parser.parse_args()
    arms = args.arms.split(",")
    differences = [f"{arm} − {than}" for arm, than in pairs_of(arms)]
    header = ["learner", "newest", *arms, *differences, "below zero"]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or LEARNERS:
        comparison = run(config_from(configuration(name, args)), console=Console(), fork=True)
        lines.append(row_of(name, comparison, arms))
        write_text(args.out / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
