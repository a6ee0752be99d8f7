"""Every learner without sleep, with sleep and with replay: Split-MNIST, five experiences of two classes.

    python benchmarks/learners_sleep.py --data DATA --out OUT [NAME ...]

DATA holds MNIST/raw; the first 5,000 images of each experience are learned, in the natural order of
the digits. Each learner is a run of ``continual-ep`` in OUT/NAME, which resumes when the command is repeated.
--validation measures on held-out training images instead of the test set. Prints a table and writes
OUT/table.md.
"""

import argparse
from pathlib import Path

from rich.console import Console

from continual_ep.experiments.config import config_from
from continual_ep.experiments.run import run

EP = {"rule": "equilibrium-propagation", "beta": 0.15, "free_steps": 12, "nudged_steps": 4}
LONGER = {**EP, "free_steps": 20, "nudged_steps": 8}
LAYERED = {"hidden": [512], "readout": "activated", "gain": 0.45}
DENDRITES = {"kind": "dendritic", "hidden": [256], "readout": "activated"}
PUBLISHED = {**DENDRITES, "feedback": "untied", "feedback_scale": 0.2}
SLOW, FAST = [0.045, 0.009], [0.4, 0.05]

#: Network, learning rule, learning rates of each learner, and further options of the training.
LEARNERS = {
    "EP": (LAYERED, EP, SLOW),
    "BPTT": (LAYERED, {"rule": "bptt", "free_steps": 12}, SLOW),
    "EP, heterogeneous time steps": (
        {**LAYERED, "order": "synchronous", "time_steps": {"mean": 0.6, "spread": 0.3}},
        {**EP, "free_steps": 30, "nudged_steps": 12},
        SLOW,
    ),
    "EP, adjusted adaptation": (LAYERED, {**EP, "adaptation_steps": 5}, SLOW),
    "contrastive Hebbian": (
        {**LAYERED, "feedback_scale": 0.3},
        {"rule": "contrastive-hebbian", "free_steps": 12, "clamped_steps": 8},
        SLOW,
    ),
    "dendritic EP": (PUBLISHED, LONGER, FAST),
    "dendritic EP, tied": (DENDRITES, LONGER, FAST),
    "dendritic BPTT": (PUBLISHED, {"rule": "bptt", "free_steps": 20, "backward_steps": 8}, FAST),
    "FRE-RNN, repaired": (
        {
            "hidden": [512],
            "gain": 0.45,
            "activation": "hard-sigmoid",
            "readout": "activated",
            "feedback_scale": 0.05,
        },
        {
            "rule": "linear-response",
            "free_steps": 12,
            "response_steps": 4,
            "update": "postsynaptic",
            "corrected": True,
        },
        SLOW,
    ),
    "convolutional EP": (
        {
            "kind": "convolutional",
            "readout": "activated",
            "gain": 0.6,
            "convolutions": {"channels": [8, 16], "kernel": 5},
        },
        {**LONGER, "tolerance": 0.001},
        [0.1, 0.05, 0.02],
    ),
    "EP, read with noise": (LAYERED, {**EP, "nudging": "force", "read_noise": 0.001}, SLOW),
    "EP, GRAPES": (LAYERED, EP, SLOW, {"grapes": True}),
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
        SLOW,
    ),
    "holomorphic EP": (
        {**LAYERED, "activation": "shifted-sigmoid"},
        {"rule": "holomorphic", "points": 4, "free_steps": 12, "nudged_steps": 6},
        SLOW,
    ),
    "continual EP": (
        LAYERED,
        {"rule": "continual", "rate": 0.0005, "free_steps": 12, "nudged_steps": 6},
        SLOW,
    ),
    "coupled learning": (
        {**LAYERED, "feedback_scale": 0.3},
        {"rule": "coupled", "free_steps": 12, "clamped_steps": 8},
        SLOW,
    ),
    "bioCHL": (
        {**LAYERED, "activation": "shifted-sigmoid", "dt": 0.2, "order": "synchronous"},
        {"rule": "predictive-hebbian", "free_steps": 40, "clamped_steps": 40, "seen_steps": 8},
        SLOW,
    ),
    "direct cost feedback": (
        {**LAYERED, "gain": 1.0},
        {"rule": "direct-cost-feedback", "free_steps": 12},
        [0.1, 0.02],
    ),
    "NEL": ({**LAYERED, "gain": 1.0}, {"rule": "neuromodulated", "free_steps": 12}, [0.1, 0.02]),
    "backprop": ({"hidden": [512], "gain": 1.0}, {"rule": "backprop"}, SLOW),
    # Backward weights drawn by the fan-out are larger than the forward ones, and so are the errors.
    "DLL": ({"hidden": [512], "gain": 1.0}, {"rule": "dendritic-localized"}, [0.004, 0.009]),
    "DLL, Kolen-Pollack": (
        {"hidden": [512], "gain": 1.0},
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
    "DFC": (
        {"hidden": [512], "gain": 1.0},
        {"rule": "deep-feedback-control", "leak": 10.0},
        [0.45, 0.09],
    ),
    "weight perturbation": (
        {"hidden": [512], "gain": 1.0},
        {"rule": "weight-perturbation", "draws": 20},
        [0.001, 0.001],
        {"optimizer": "adam"},
    ),
}
ARMS = ["sequential", "sleep", "er", "er+sleep"]


def configuration(name: str, args: argparse.Namespace) -> dict:
    network, learning, rates, *more = LEARNERS[name]
    stream = {"name": "mnist", "root": args.data, "experiences": 5, "order_seed": None}
    stream["per_experience"] = 5000
    if args.validation:
        stream["validation"] = 1 / 6
    return {
        "stream": stream,
        "network": network,
        "learning": [learning],
        "training": {
            "learning_rates": rates,
            "batch_size": 50,
            "epochs": 1,
            **(more[0] if more else {}),
        },
        "mechanisms": {"er": {"per_class": 2, "share": 0.2}},
        "arms": args.arms.split(","),
        "seeds": args.seeds,
        "evaluate": "validation" if args.validation else "test",
        "workers": args.workers,
        "out": str(args.out / name.replace(", ", "-").replace(" ", "-")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0:3")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--validation", action="store_true")
    args = parser.parse_args()
    lines = [
        "| learner | " + " | ".join(args.arms.split(",")) + " |",
        "|---" * (1 + args.arms.count(",") + 1) + "|",
    ]
    for name in args.names or LEARNERS:
        comparison = run(config_from(configuration(name, args)), console=Console(), fork=True)
        found = {}
        for group in comparison.groups:
            interval = group.interval("pooled_accuracy")
            found[group.arm] = f"{100 * interval.mean:.1f} ± {100 * interval.half_width:.1f}"
        lines.append(f"| {name} | " + " | ".join(found[arm] for arm in args.arms.split(",")) + " |")
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
