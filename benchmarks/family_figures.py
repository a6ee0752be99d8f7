"""Studies of the learners that end in a figure; each writes PNG and JSON into --out.

    python benchmarks/family_figures.py time-steps --out OUT      # stability of drawn time steps (digits)
    python benchmarks/family_figures.py feedback --out OUT        # spectral radius and steps to settle
    python benchmarks/family_figures.py hidden-states --data DATA --states FOLDER --out OUT

``hidden-states`` wants the states that ``learners.py`` leaves for ep-1, dendritic-ep-1 and
dendritic-ep-tied-1.
"""

import argparse
import json
import math
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from continual_ep.errors import DivergenceError
from continual_ep.learning import EquilibriumPropagation, SquaredError
from continual_ep.networks import MRNN, FeedbackRegulatedRNN
from continual_ep.relaxation import TimeSteps
from continual_ep.streams import class_incremental


def tensors(benchmark, stream: str) -> tuple[torch.Tensor, torch.Tensor]:
    data = benchmark.streams[stream][0].dataset
    return torch.stack([x for x, *_ in data]), torch.tensor(list(data.targets))


def one_run(x, y, test_x, test_y, dt, depth: int, seed: int, epochs: int) -> dict:
    """Train; whether it diverged, whether the free phase settles in the end, and the accuracy."""
    generator = torch.Generator().manual_seed(seed)
    rule = EquilibriumPropagation(0.2, free_steps=20, nudged_steps=8, nudging="loss")
    network = MRNN(
        [64, *[64] * depth, 10],
        readout="activated",
        gain=1.0,
        order="synchronous",
        dt=dt,
        learning=rule,
        generator=generator,
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
    try:
        for _ in range(epochs):
            for batch in torch.randperm(len(x), generator=generator).split(20):
                optimizer.zero_grad()
                SquaredError()(network(x[batch]), y[batch]).backward()
                optimizer.step()
        with torch.no_grad():
            right = float((network(test_x).argmax(1) == test_y).double().mean())
    except DivergenceError:
        return {"diverged": True, "settled": False, "accuracy": 0.1}
    return {"diverged": False, "settled": network.settling.settled, "accuracy": right}


def time_steps(args: argparse.Namespace) -> dict:
    benchmark = class_incremental("digits", 1, seed=None)
    x, y = tensors(benchmark, "train")
    test_x, test_y = tensors(benchmark, "test")
    means, spreads, depths = (0.3, 0.6, 0.9), (0.0, 0.2, 0.5), (1, 2, 3)
    rows = []

    def study(dt, depth, **what):
        runs = [one_run(x, y, test_x, test_y, dt, depth, seed, args.epochs) for seed in range(5)]
        rows.append(
            {
                **what,
                "depth": depth,
                "diverged": float(np.mean([r["diverged"] for r in runs])),
                "unsettled": float(np.mean([not r["settled"] for r in runs])),
                "accuracy": float(np.mean([r["accuracy"] for r in runs])),
                "spread_of_accuracy": float(np.std([r["accuracy"] for r in runs], ddof=1)),
            }
        )
        print(rows[-1], flush=True)

    for mean, spread, depth in product(means, spreads, depths):
        dt = TimeSteps("log-normal", mean, spread) if spread else mean
        study(dt, depth, distribution="log-normal" if spread else "one", mean=mean, spread=spread)
    for name in ("uniform", "normal", "gamma", "inverse-gamma"):
        study(TimeSteps(name, 0.6, 0.5), 2, distribution=name, mean=0.6, spread=0.5)
    figure = Figure(figsize=(9, 5.4))
    axes = figure.subplots(2, 3, sharex=True, sharey="row")
    for column, depth in enumerate(depths):
        for spread in spreads:
            line = [
                r
                for r in rows
                if r["depth"] == depth
                and r["spread"] == spread
                and r["distribution"] in ("one", "log-normal")
            ]
            at = [r["mean"] for r in line]
            label = f"spread {spread}" if spread else "one dt for all"
            accuracy = [100 * r["accuracy"] for r in line]
            error = [100 * r["spread_of_accuracy"] for r in line]
            axes[0][column].errorbar(at, accuracy, error, marker="o", capsize=3, label=label)
            lost = [100 * max(r["diverged"], r["unsettled"]) for r in line]
            axes[1][column].plot(at, lost, marker="o", label=label)
        axes[0][column].set_title(f"{depth} hidden layer{'s' if depth > 1 else ''}")
        axes[1][column].set_xlabel("mean time step")
    axes[0][0].set_ylabel("accuracy, %")
    axes[1][0].set_ylabel("diverged or unsettled, %")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(args.out / "time_steps.png", dpi=120)
    return {"rows": rows}


def feedback(args: argparse.Namespace) -> dict:
    scales = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
    rows = []
    x = torch.rand(50, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for depth, scale in product((2, 3, 5, 10), scales):
        radius, steps = [], []
        for seed in range(5):
            network = FeedbackRegulatedRNN(
                [64, *[64] * depth, 10],
                feedback_scale=scale,
                generator=torch.Generator().manual_seed(seed),
            ).double()
            radius.append(network.spectral_radius())
            settled = network.settle(x, steps=1000, tolerance=1e-6)
            steps.append(settled.steps if settled.residual <= 1e-6 else math.nan)
        rows.append(
            {
                "depth": depth,
                "scale": scale,
                "radius": float(np.mean(radius)),
                "steps": float(np.mean(steps)),
            }
        )
        print(rows[-1], flush=True)
    figure = Figure(figsize=(8.5, 3.6))
    left, right = figure.subplots(1, 2)
    for number, depth in enumerate((2, 3, 5, 10)):
        line = [r for r in rows if r["depth"] == depth]
        colour = f"C{number}"
        left.loglog(scales, [r["radius"] for r in line], "o", color=colour, label=f"{depth} layers")
        left.loglog(scales, [math.sqrt(s) * line[-1]["radius"] for s in scales], color=colour, lw=1)
        right.semilogx(scales, [r["steps"] for r in line], "o-", color=colour)
    left.set_xlabel("feedback scale γ")
    left.set_ylabel("spectral radius (lines: √γ · SR(1))")
    left.legend(fontsize=8)
    right.set_xlabel("feedback scale γ")
    right.set_ylabel("steps until nothing moves by 1e-6")
    figure.tight_layout()
    figure.savefig(args.out / "feedback_scale.png", dpi=120)
    worst = max(
        abs(r["radius"] / (math.sqrt(r["scale"]) * full["radius"]) - 1)
        for r in rows
        for full in rows
        if full["depth"] == r["depth"] and full["scale"] == 1.0
    )
    return {"rows": rows, "largest_relative_error_of_the_root_law": worst}


def hidden_states(args: argparse.Namespace) -> dict:
    from learners import settings

    benchmark = class_incremental("mnist", 1, root=args.data, seed=None)
    x, _ = tensors(benchmark, "test")
    rows, figure = {}, Figure(figsize=(8.5, 3.6))
    left, right = figure.subplots(1, 2)
    for name in ("ep-1", "dendritic-ep-1", "dendritic-ep-tied-1"):
        network = settings()[name].make(torch.Generator().manual_seed(0))
        path = next(args.states.glob(f"*.{name}.mnist.0.pt"))
        network.load_state_dict(torch.load(path, weights_only=True)["network"])
        trace = network.settle(x[:2000], trace=True).trace
        means = [float(states[0].mean()) for states in trace]
        last = trace[-1][0]
        share = last / last.sum(1, keepdim=True).clamp(min=1e-9)
        rows[name] = {
            "mean_by_step": means,
            "mean": means[-1],
            "active": float((last > 0.01).double().mean()),
            "saturated": float((last > 0.99).double().mean()),
            # 1 / sum p^2: how many units share the activity equally.
            "participation": float((1 / share.square().sum(1)).mean()),
            "units": last.shape[1],
        }
        print(name, {k: v for k, v in rows[name].items() if k != "mean_by_step"}, flush=True)
        left.plot(range(1, len(means) + 1), means, label=name.removesuffix("-1"))
        right.hist(last.flatten().numpy(), bins=40, range=(0, 1), histtype="step", density=True)
    left.set_xlabel("step of the free phase")
    left.set_ylabel("mean hidden activity")
    left.legend(fontsize=8)
    right.set_xlabel("hidden activity at the equilibrium")
    right.set_ylabel("density")
    right.set_yscale("log")
    figure.tight_layout()
    figure.savefig(args.out / "hidden_states.png", dpi=120)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("time-steps", "feedback", "hidden-states"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--states", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="the free phase did not settle")
    args.out.mkdir(parents=True, exist_ok=True)
    study = {"time-steps": time_steps, "feedback": feedback, "hidden-states": hidden_states}
    found = study[args.what](args)
    (args.out / f"{args.what}.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
