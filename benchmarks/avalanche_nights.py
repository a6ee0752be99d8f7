"""Ordinary Avalanche pipelines with and without one added line, ``plugins=[SleepReplay()]``.

    OMP_NUM_THREADS=1 python benchmarks/avalanche_nights.py --data DATA --out OUT [--validation] [NAME ...]

DATA holds MNIST/raw and FashionMNIST/raw. The benchmarks are Avalanche's own classes with their default
transforms. Both arms of a seed have the same class order (or permutations), drawn from the seed, initial
weights and batches. --validation draws the orders from the seed + 100 and measures on the last sixth of the
training images of each class, which are then not trained on, instead of the test set.

OUT/results.jsonl gets a line for each row, seed and arm; those that are there already are skipped, so the
command resumes when it is repeated. Accuracy: all test samples of all experiences, after the last one.
Times are processor seconds. Prints a table and writes OUT/table.md.
"""

import argparse
import json
import math
import random
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from avalanche.benchmarks.classic import PermutedMNIST, SplitFMNIST, SplitMNIST
from avalanche.models import MTSimpleMLP, SimpleMLP
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive, Replay
from torch import nn

from continual_ep.atomic_files import write_text
from continual_ep.errors import InputError
from continual_ep.experiments.config import config_from, seeds_from
from continual_ep.experiments.environment import environment
from continual_ep.metrics.statistics import confidence_interval, paired_difference
from continual_ep.plugins import SleepReplay
from continual_ep.seeding import generator_from

SPLIT = {"mnist": SplitMNIST, "fashion": SplitFMNIST, "tasks": SplitMNIST}
FOLDERS = {"fashion": "FashionMNIST"}
ARMS = ("without", "with")


def cnn(readout_only: bool) -> nn.Module:
    """Two convolutions with batch norm, and a dense layer unless the read-out is all that follows."""
    dense = [nn.Linear(32 * 49, 10)]
    if not readout_only:
        dense = [nn.Linear(32 * 49, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *dense,
    )


class Row(NamedTuple):
    """A pipeline; :param must: what nights have to reach."""

    must: str
    data: str = "mnist"
    model: Callable[[], nn.Module] = SimpleMLP
    adam: bool = False
    momentum: float = 0.0
    epochs: int = 1
    exemplars: int = 0


def depth(layers: int) -> Callable[[], nn.Module]:
    return lambda: SimpleMLP(hidden_layers=layers)


#: SGD with a rate of 0.01, or Adam with 1e-3; batches of 64.
ROWS = {
    "sgd": Row(".45"),
    "adam": Row(".35", adam=True),
    "fashion": Row("no harm", "fashion"),
    "cnn": Row("no harm", model=lambda: cnn(False), adam=True),
    "cnn-readout": Row("no harm", model=lambda: cnn(True), adam=True),
    "permuted": Row("no harm", "permuted"),
    "tasks": Row("no harm", "tasks", MTSimpleMLP),
    "replay": Row("no harm", exemplars=200),
    "depth-2": Row("no harm", model=depth(2)),
    "depth-4": Row("no harm", model=depth(4)),
    "momentum": Row("no harm", momentum=0.9),
    "depth-2-momentum": Row("no harm", model=depth(2), momentum=0.9),
    "depth-4-momentum": Row("no harm", model=depth(4), momentum=0.9),
    "epochs-3": Row("no harm", epochs=3),
}


def experiences(row: Row, seed: int, args: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """Experiences to train on and to measure on."""
    order_seed = seed + 100 * args.validation
    root = Path(args.data)
    folder = root / FOLDERS.get(row.data, "MNIST") / "raw"
    if not folder.is_dir():  # Avalanche would download
        raise InputError(
            f"{folder} is missing: fetch the data set with torchvision, or change --data"
        )
    if row.data == "permuted":
        benchmark = PermutedMNIST(5, seed=order_seed, dataset_root=root)
    else:
        order = torch.randperm(10, generator=generator_from(f"class-order:{order_seed}")).tolist()
        benchmark = SPLIT[row.data](
            5, fixed_class_order=order, return_task_id=row.data == "tasks", dataset_root=root
        )
    train, test = list(benchmark.train_stream), list(benchmark.test_stream)
    for learned, measured in zip(train, test, strict=True):
        data = learned.dataset
        kept, held_out = division(list(data.targets), args.images, args.validation)
        if args.validation:
            measured.dataset = data.subset(held_out).eval()
        learned.dataset = data.subset(kept)
    return train, test


def division(
    labels: list[int], images: int | None, validation: bool
) -> tuple[list[int], list[int]]:
    """Samples to train on and samples held out, class by class: Avalanche sorts them by class."""
    kept, held_out = [], []
    classes = sorted(set(labels))
    for label in classes:
        rows = [row for row, other in enumerate(labels) if other == label]
        end = len(rows) - validation * (len(rows) // 6)
        held_out += rows[end:]
        kept += rows[: min(end, images // len(classes) if images else end)]
    return kept, held_out


class Score(SupervisedPlugin):
    """Counts right answers over a whole evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.right = self.count = 0

    def after_eval_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.right += int((strategy.mb_output.argmax(1) == strategy.mb_y).sum())
        self.count += len(strategy.mb_y)


class TimedSleep(SleepReplay):
    """SleepReplay that keeps the processor seconds and the outcome of each night."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.outcomes: list[dict[str, Any]] = []

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        started = time.process_time()
        super().after_training_exp(strategy, **kwargs)
        self.seconds.append(time.process_time() - started)
        assert self.last_night is not None
        self.outcomes.append(self.last_night.outcome_dict())


def run_cell(row: Row, seed: int, arm: str, args: argparse.Namespace) -> dict[str, Any]:
    """One training over all experiences, and what came of it."""
    for set_seed in (random.seed, np.random.seed, torch.manual_seed):
        set_seed(seed)
    train, test = experiences(row, seed, args)
    model = row.model()
    parameters = model.parameters()
    if row.adam:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=1e-3)
    else:
        optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=row.momentum)
    sleep, score = TimedSleep() if arm == "with" else None, Score()
    strategy = (Replay if row.exemplars else Naive)(
        model=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=64,
        train_epochs=row.epochs,
        eval_mb_size=256,
        plugins=[score, *([sleep] if sleep else [])],
        evaluator=EvaluationPlugin(),
        **({"mem_size": row.exemplars} if row.exemplars else {}),
    )
    seconds = []
    for experience in train:
        started = time.process_time()
        strategy.train(experience)
        seconds.append(time.process_time() - started)
    strategy.eval(test)
    nights = sleep.seconds if sleep else []
    for place, night in enumerate(nights):
        seconds[place] -= night
    return {
        "accuracy": score.right / score.count,
        "nights": sleep.outcomes if sleep else [],
        "train_seconds": [round(s, 3) for s in seconds],
        "night_seconds": [round(s, 3) for s in nights],
    }


def read_results(path: Path) -> list[dict[str, Any]]:
    """The complete lines; a line that a kill cut off is removed from the file."""
    if not path.exists():
        return []
    results, lines = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            results.append(json.loads(line))
        except json.JSONDecodeError:
            continue
        lines.append(line)
    text = "".join(f"{line}\n" for line in lines)
    if text != path.read_text(encoding="utf-8"):
        write_text(path, text)
    return results


def points(values: Sequence[float]) -> str:
    interval = confidence_interval([100 * value for value in values])
    width = interval.half_width
    return f"{interval.mean:.1f}" + (f" ± {width:.1f}" if math.isfinite(width) else "")


def table_of(results: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Seeds that both arms have, in per cent."""
    lines = [
        "| pipeline | n | without | with | difference | nights | night / training | must |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        arms = {
            arm: {r["seed"]: r for r in results if (r["row"], r["arm"]) == (name, arm)}
            for arm in ARMS
        }
        seeds = sorted(arms["with"].keys() & arms["without"].keys())
        if not seeds:
            continue
        slept = [arms["with"][seed] for seed in seeds]
        accuracy = {arm: [arms[arm][seed]["accuracy"] for seed in seeds] for arm in ARMS}
        difference = paired_difference(accuracy["with"], accuracy["without"])
        outcomes = [night["outcome"] for r in slept for night in r["nights"]]
        counts = ", ".join(f"{outcomes.count(o)} {o}" for o in dict.fromkeys(outcomes))
        times = [sum(sum(r[key]) for r in slept) for key in ("night_seconds", "train_seconds")]
        cells = [
            *(name, str(len(seeds)), points(accuracy["without"]), points(accuracy["with"])),
            "{:+.1f} [{:.1f}, {:.1f}]".format(*(100 * value for value in difference[:3])),
            *(counts, f"{times[0] / times[1]:.2f}", ROWS[name].must),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0:6")
    parser.add_argument("--images", type=int, help="train on so many per experience; default: all")
    parser.add_argument("--validation", action="store_true")
    args = parser.parse_args()
    names = args.names or list(ROWS)
    if unknown := set(names) - ROWS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: choose of {', '.join(ROWS)}")
    torch.set_num_threads(1)
    # Avalanche's Replay calls its own deprecated method, and no loggers is what is wanted here.
    warnings.filterwarnings("ignore", "Call to deprecated|No loggers specified")
    args.out.mkdir(parents=True, exist_ok=True)
    path, failed = args.out / "results.jsonl", False
    settings = {"validation": args.validation, "images": args.images}
    machine = environment(config_from({"threads": 1}))

    def same_settings() -> list[dict[str, Any]]:
        return [r for r in read_results(path) if settings.items() <= r.items()]

    done = {(r["row"], r["seed"], r["arm"]) for r in same_settings()}
    # Seeds outside: each pass over the rows is a table of its own.
    cells = [(name, seed, arm) for seed in seeds_from(args.seeds) for name in names for arm in ARMS]
    for name, seed, arm in cells:
        if (name, seed, arm) in done:
            continue
        try:
            outcome = run_cell(ROWS[name], seed, arm, args)
        except Exception:  # the other rows go on
            traceback.print_exc()
            failed = True
            continue
        line = {"row": name, "seed": seed, "arm": arm, **settings, **outcome, "machine": machine}
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        print(f"{name}, seed {seed}, {arm}: {100 * outcome['accuracy']:.1f}", flush=True)
    table = table_of(same_settings(), names)
    write_text(args.out / "table.md", table + "\n")
    print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
