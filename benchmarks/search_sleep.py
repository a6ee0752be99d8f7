"""How the calibrated defaults of sleep were found: a mutation search on held-out training images of MNIST.

    python benchmarks/search_sleep.py --data DIR --minutes 18 --out search.jsonl

Trains a 784-512-10 network by EP on five experiences of two digits (the first 5,000 of each, among the first
50,000 images), lets it sleep after each, and scores it on the last 10,000 training images. Sleep and training
constants change together, by log-normal steps from one of the six best so far; the score is the mean of two
seeds. The test set is not read. One JSON line per candidate; the defaults are the best, rounded.
"""

import argparse
import json
import math
import random
import time
import warnings
from pathlib import Path

import torch
from torchvision.datasets import MNIST

from continual_ep.errors import ContinualEPError, ContinualEPWarning
from continual_ep.learning import EquilibriumPropagation, SquaredError
from continual_ep.networks import MRNN
from continual_ep.sleep import SleepParameters, sleep_replay

TRAINING = {"lr": 0.1, "ratio": 0.5, "batch": 50, "beta": 0.2, "gain": 1.0}
NIGHT = {
    "increase": 0.006,
    "decrease": 0.0005,
    "output_threshold": 0.5,
    "firing_rate": 0.0014,
    "steps": 3000,
    "growth": 1.0,
    "max_rate": 80.0,
    "leak": 0.99,
    "window": 11,
}
#: Standard deviations of the logarithmic steps.
SIGMA = {
    "lr": 0.3,
    "ratio": 0.3,
    "increase": 0.4,
    "decrease": 0.4,
    "output_threshold": 0.5,
    "firing_rate": 0.5,
    "steps": 0.5,
    "growth": 0.4,
    "max_rate": 0.3,
    "beta": 0.3,
    "gain": 0.2,
}
CHOICES = {
    "batch": [20, 50, 100],
    "leak": [0.999, 0.99, 0.95, 0.9],
    "window": [7, 11, 16, 22, None],
}


def score(x: torch.Tensor, y: torch.Tensor, constants: dict[str, float], seed: int) -> float:
    """Accuracy on the held-out images after the last night, in per cent."""
    torch.manual_seed(seed)
    training = {name: constants[name] for name in TRAINING}
    night = SleepParameters(**{name: constants[name] for name in NIGHT})
    rule = EquilibriumPropagation(
        training["beta"], free_steps=12, nudged_steps=4, tolerance=1e-3, nudging="loss"
    )
    network = MRNN([784, 512, 10], readout="activated", gain=training["gain"], learning=rule)
    rates = [training["lr"], training["lr"] * training["ratio"]]
    optimizer, criterion = torch.optim.SGD(network.parameter_groups(rates)), SquaredError()
    seen = torch.empty(0, dtype=torch.long)
    for experience in range(5):
        now = torch.nonzero(y[:50_000] // 2 == experience).flatten()[:5000]
        for batch in now[torch.randperm(len(now))].split(int(training["batch"])):
            optimizer.zero_grad()
            criterion(network(x[batch]), y[batch]).backward()
            optimizer.step()
        seen = torch.cat([seen, now])
        mean = x[seen].double().mean(0).float().view(28, 28)
        sleep_replay(network, mean, night, seed=seed, night=experience + 1)
    with torch.no_grad():
        right = network(x[50_000:]).argmax(1) == y[50_000:]
    return 100.0 * float(right.float().mean())


def mutated(source: random.Random, parent: dict[str, float]) -> dict[str, float]:
    child = dict(parent)
    for name, sigma in SIGMA.items():
        if source.random() < 0.5:
            child[name] *= math.exp(source.gauss(0.0, sigma))
    for name, values in CHOICES.items():
        if source.random() < 0.15:
            child[name] = source.choice(values)
    child["steps"], child["beta"] = max(100, int(child["steps"])), min(child["beta"], 0.8)
    return child


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=18.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    # Candidates may be bad networks: what they say of themselves is in their score.
    warnings.simplefilter("ignore", ContinualEPWarning)
    data = MNIST(args.data, train=True, download=False)
    x, y = data.data.flatten(1).float() / 255, data.targets
    source, begin = random.Random(args.seed), time.monotonic()
    best: list[tuple[float, dict[str, float]]] = []
    while time.monotonic() - begin < 60 * args.minutes:
        parent = source.choice(best[:6])[1] if best else None
        constants = mutated(source, parent) if parent else {**TRAINING, **NIGHT}
        try:
            scores = [score(x, y, constants, seed) for seed in (0, 1)]
        except ContinualEPError:
            continue
        mean = sum(scores) / len(scores)
        best.append((mean, constants))
        best.sort(key=lambda each: -each[0])
        with args.out.open("a") as out:
            out.write(json.dumps({"mean": mean, "scores": scores, **constants}) + "\n")
        print(f"{mean:.1f}, best {best[0][0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
