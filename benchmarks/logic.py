"""Logical operations on directed graphs (DEEP): how many of ten networks learn them.

    python benchmarks/logic.py [SETTING ...] [--seeds 0:10] [--epochs 200] [--out logic.jsonl]

SETTING: published, pruned, best, best-pruned-0.001, ... (all by default); "best" stops when all answers are
right. A network has learnt an operation if every answer is on the right side of one half after the last
epoch. Prints, for each operation, the share of networks that have learnt it at the end and at any time,
their sparsity, and for how many the theory's condition holds.
"""

import argparse
import json
import warnings
from pathlib import Path

import torch
from other_learners.directed import DirectedNetwork

from continual_ep.errors import DivergenceError
from continual_ep.learning import SquaredError

INPUTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
OPERATIONS = {"and": [0, 0, 0, 1], "or": [0, 1, 1, 1], "xor": [0, 1, 1, 0]}
PUBLISHED = {"hidden": 5, "beta": 10.0, "free_steps": 1000, "teaching_steps": 1000, "rate": 100.0}
# Found by trying some seventy settings: a leak of its own, larger initial weights, more neurons.
BEST = {
    "hidden": 12,
    "beta": 5.0,
    "leak": 2.0,
    "spread": 0.5,
    "dt": 0.1,
    "free_steps": 100,
    "teaching_steps": 100,
    "rate": 50.0,
    "stop": True,
}
SETTINGS = {
    "published": PUBLISHED,
    "pruned": {**PUBLISHED, "prune": True, "l1": 1.5e-4},
    "best": BEST,
    # Sparser and sparser: nothing stops them early, so that there is time to prune.
    **{
        f"best-pruned-{l1}": {**BEST, "stop": False, "prune": True, "l1": l1}
        for l1 in (0.0003, 0.001, 0.003, 0.01)
    },
}


def learn(
    operation: str,
    seed: int,
    epochs: int,
    *,
    rate: float,
    stop: bool = False,
    prune: bool = False,
    l1: float = 0.0,
    **options: float,
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    network = DirectedNetwork(2, outputs=1, generator=generator, **options)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    y = torch.tensor(OPERATIONS[operation]).float().view(-1, 1)
    ever = right = False
    try:
        for _ in range(epochs):
            optimizer.zero_grad()
            output = network(INPUTS)
            right = bool(((output > 0.5).float() == y).all())
            ever |= right
            if right and stop:
                break
            SquaredError()(output, y).backward()
            optimizer.step()
            if prune:
                with torch.no_grad():
                    network.weight.sub_(l1 * network.weight.sign())
                network.prune(generator=generator)
        right = bool(((network(INPUTS) > 0.5).float() == y).all())
    except DivergenceError:
        right = False
    return {
        "learnt": right,
        "ever": ever or right,
        "sparsity": round(network.sparsity, 3),
        "theory_holds": network.stability().holds,
        "largest_weight": round(float(network.weight.detach().abs().max()), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--seeds", default="0:10")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--operations", default=",".join(OPERATIONS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    first, _, end = args.seeds.partition(":")
    for name in args.settings or SETTINGS:
        for operation in args.operations.split(","):
            runs = [
                learn(operation, seed, args.epochs, **SETTINGS[name])
                for seed in range(int(first), int(end or first) + (not end))
            ]
            line = {"setting": name, "operation": operation, "networks": len(runs)}
            for key in ("learnt", "ever", "theory_holds"):
                line[key] = sum(run[key] for run in runs)
            for key in ("sparsity", "largest_weight"):
                line[key] = round(sum(run[key] for run in runs) / len(runs), 3)
            print(json.dumps(line), flush=True)
            if args.out:
                with args.out.open("a") as out:
                    out.write(json.dumps({**line, "epochs": args.epochs}) + "\n")


if __name__ == "__main__":
    main()
