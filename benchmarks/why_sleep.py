"""What differs between learners that sleep helps much and those that it helps little.

    python benchmarks/why_sleep.py --data DATA [NAME ...] [--out why_sleep.jsonl]

Each learner of learners_sleep.py learns the first two experiences of Split-MNIST (seed 0) and sleeps after
each. Measured on training images after the second experience, before the night: the hidden activity of the
last hidden layer (its mean, the part of its units that are above a tenth of the largest, and how many share
it, 1 / sum p^2, as a part of all), and by how much the outputs of the new classes exceed those of the old
ones on images of the old ones; during the night: spikes of each layer and unit in a hundred steps; after it:
that excess again, and the accuracy on old and new classes.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from learners_sleep import LEARNERS, configuration

from continual_ep.experiments.build import build_cell, build_stream
from continual_ep.experiments.cells import cells_of
from continual_ep.experiments.config import config_from
from continual_ep.sleep import SleepHooks


def state_of(model: Any, old: torch.Tensor, new: torch.Tensor) -> dict[str, float]:
    """:param old, new: images of two classes each, 250 of each class in order."""
    model.eval()
    with torch.no_grad():
        both = torch.cat([old, new])
        *_, hidden, output = [a.flatten(1) for a in model.activities(both)]
    size = hidden.abs()
    share = size / size.sum(1, keepdim=True).clamp(min=1e-9)
    sharing = 1.0 / share.square().sum(1).clamp(min=1e-9)
    of_old = output[: len(old)]
    found = {
        "mean": hidden.mean(),
        "active": (size > 0.1 * size.max()).double().mean(),
        "sharing": (sharing / hidden.shape[1]).mean(),
        "excess_of_new": of_old[:, 2:4].max(1).values.mean() - of_old[:, :2].max(1).values.mean(),
    }
    labels = torch.arange(4).repeat_interleave(len(old) // 2)
    right = (output.argmax(1) == labels).double()
    found |= {"old": right[: len(old)].mean(), "new": right[len(old) :].mean()}
    return {name: round(float(value), 3) for name, value in found.items()}


def images(benchmark: Any, experience: int) -> torch.Tensor:
    data = benchmark.train_stream[experience].dataset
    labels = torch.tensor(list(data.targets))
    rows = [(labels == c).nonzero()[:250, 0] for c in (2 * experience, 2 * experience + 1)]
    return torch.stack([data[int(row)][0] for row in torch.cat(rows)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    args.arms, args.seeds, args.workers, args.validation = "sleep", "0:1", 1, False
    args.images = 5000
    chosen, args.out = args.out, Path("unused")
    for name in args.names or LEARNERS:
        values = configuration(name, args)
        values["stream"]["order_seed"] = None  # images() takes the natural order
        config = config_from(values)
        benchmark = build_stream(config)
        (cell,) = cells_of(config)
        torch.manual_seed(0)
        strategy, plugins = build_cell(config, cell, benchmark)
        sleep = plugins["sleep"]
        old, new = images(benchmark, 0), images(benchmark, 1)
        found: dict[str, dict[str, float]] = {}

        class Look(SleepHooks):
            supports_distributed = False

            def sleep_begins(self, strategy: Any, **kwargs: Any) -> None:
                found["before"] = state_of(strategy.model, old, new)  # noqa: B023

        look = Look()
        strategy.plugins.append(look)
        for experience in list(benchmark.train_stream)[:2]:
            strategy.train(experience)
        found["after"] = state_of(strategy.model, old, new)
        night = sleep.last_night
        steps = len(night.counts)
        spikes = [
            round(100.0 * float(count.double().mean()) / steps, 3) for count in night.unit_counts
        ]
        line = {"learner": name, **found, "spikes_per_100_steps": spikes}
        print(json.dumps(line), flush=True)
        if chosen:
            with chosen.open("a") as out:
                out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
