"""How fast batches reach a strategy's training loop: Avalanche's ordinary path, and BatchFeed.

    python benchmarks/loader.py --data DIR [--out FILE.json]

DIR holds MNIST's IDX files in a folder MNIST (or MNIST/raw). One process, one thread, batches of 64.
Delivery is timed inside a real strategy whose training epoch unpacks every batch and does no more, from
before the plugins are called to the last batch; the median over epochs, the paths in turn. The ordinary path
runs over the package's own data set and over the leanest one for it, which indexes a tensor. The share
of a training step is that time over the time of a whole iteration of EPStrategy with its defaults, fed.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.benchmarks.utils.utils import concat_datasets
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import ReplayPlugin
from torch import Tensor
from torch.utils.data import Dataset

from continual_ep.plugins import BatchFeed
from continual_ep.strategies import EPStrategy
from continual_ep.streams import class_incremental
from continual_ep.streams.indexed_samples import index_samples

BATCH, MEMORY = 64, 1000
SIZES = ([784, 256, 10], [784, 512, 10])


class Watch(SupervisedPlugin):
    """Seconds and samples of each training epoch. First in the list, so that all plugins count."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.samples = self.batches = 0

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self.samples = self.batches = 0
        self.begin = time.perf_counter()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.begin)


class Delivery(EPStrategy):
    """Takes batches as every strategy does, and does nothing with them."""

    def training_epoch(self, **kwargs: Any) -> None:
        watch = self.plugins[0]
        for batch in self.dataloader:
            self.mbatch = batch
            self._unpack_minibatch()
            watch.samples += len(batch[0])
            watch.batches += 1


class Lean(Dataset[tuple[Tensor, int]]):
    """The least that an ordinary data set can do for a sample."""

    def __init__(self, x: Tensor, targets: list[int]) -> None:
        self.x, self.targets = x, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], self.targets[index]


def lean_copy(benchmark: Any) -> Any:
    """The same stream over such data sets."""
    parts = [benchmark.train_stream, benchmark.test_stream]
    joint = [concat_datasets([experience.dataset for experience in part]) for part in parts]
    sets = []
    for data in joint:
        x, y, _ = index_samples(data).batch(torch.arange(len(data)))
        sets.append(Lean(x, y.tolist()))
    groups = benchmark.classes_per_experience
    order, sizes = [label for group in groups for label in group], map(len, groups)
    return nc_benchmark(
        *sets,
        n_experiences=len(groups),
        task_labels=False,
        fixed_class_order=order,
        per_exp_classes=dict(enumerate(sizes)),
    )


def delivered(stream: Any, feeding: bool, epochs: int, replay: bool) -> Watch:
    """Epochs on the last of some experiences, with a memory of those before if there is replay."""
    watch = Watch()
    plugins: list[Any] = [watch]
    if replay:
        plugins.append(ReplayPlugin(MEMORY, batch_size_mem=BATCH))
    if feeding:
        plugins.append(BatchFeed())
    strategy = Delivery(
        sizes=(784, 2, 10), plugins=plugins, evaluator=None, train_mb_size=BATCH, train_epochs=1
    )
    for number, experience in enumerate(stream):
        strategy.train_epochs = epochs if number == len(stream) - 1 else 1
        strategy.train(experience)
    watch.seconds = watch.seconds[-epochs:]
    return watch


def delivery(
    name: str, stream: Any, lean: Any, epochs: int, replay: bool = False
) -> dict[str, Any]:
    """The paths in turn, so that all see the same machine."""
    paths = {"fed": (stream, True), "ordinary": (stream, False), "lean": (lean, False)}
    seconds: dict[str, list[float]] = {path: [] for path in paths}
    for _ in range(epochs):
        for path, (source, feeding) in paths.items():
            # The first epoch of a fed run also follows the data set to its tensors.
            watch = delivered(source, feeding, 3 if feeding else 1, replay)
            seconds[path] += watch.seconds
    found: dict[str, Any] = {"stream": name, "samples": watch.samples, "batches": watch.batches}
    medians = {path: statistics.median(times) for path, times in seconds.items()}
    for path, median in medians.items():
        found[f"{path}_us_per_batch"] = 1e6 * median / watch.batches
        found[f"{path}_samples_per_s"] = watch.samples / median
    ratios = {f"ratio_to_{path}": medians[path] / medians["fed"] for path in ("ordinary", "lean")}
    return {**found, **ratios}


def step(sizes: list[int], stream: Any, epochs: int, fed_us: float) -> dict[str, Any]:
    """A whole training iteration, fed, and the share of fetching its batch."""
    watch = Watch()
    strategy = EPStrategy(
        sizes=sizes,
        network={"readout": "activated", "gain": 1.0},
        plugins=[watch, BatchFeed()],
        evaluator=None,
        train_mb_size=BATCH,
        train_epochs=epochs,
    )
    strategy.train(stream[0])
    steps = -(-len(stream[0].dataset) // BATCH)
    microseconds = 1e6 * statistics.median(watch.seconds) / steps
    return {
        "sizes": sizes,
        "step_us": microseconds,
        "fetch_us": fed_us,
        "share": fed_us / microseconds,
    }


def table(rows: list[dict[str, Any]], columns: dict[str, Callable[[dict[str, Any]], str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(show(row) for show in columns.values()) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    benchmarks = [class_incremental("mnist", n, root=options.data) for n in (1, 5)]
    (whole, whole_lean), (split, split_lean) = (
        (benchmark.train_stream, lean_copy(benchmark).train_stream) for benchmark in benchmarks
    )
    epochs = options.epochs
    second = f"MNIST in 5, the second with replay of {MEMORY}"
    deliveries = [
        delivery("MNIST, one experience", whole, whole_lean, epochs),
        delivery("MNIST in 5, the first", split[:1], split_lean[:1], epochs),
        delivery(second, split[:2], split_lean[:2], epochs, True),
    ]
    fed_us = deliveries[0]["fed_us_per_batch"]
    steps = [step(sizes, split, options.epochs, fed_us) for sizes in SIZES]
    print(
        table(
            deliveries,
            {
                "stream": lambda row: row["stream"],
                "Avalanche, samples/s": lambda row: f"{row['ordinary_samples_per_s']:,.0f}",
                "over a lean set": lambda row: f"{row['lean_samples_per_s']:,.0f}",
                "BatchFeed, samples/s": lambda row: f"{row['fed_samples_per_s']:,.0f}",
                "µs per batch": lambda row: f"{row['fed_us_per_batch']:.0f}",
                "ratio": lambda row: f"{row['ratio_to_ordinary']:.0f}",
                "to the lean set": lambda row: f"{row['ratio_to_lean']:.0f}",
            },
        ),
        table(
            steps,
            {
                "network": lambda row: "-".join(map(str, row["sizes"])),
                "EP step, ms": lambda row: f"{row['step_us'] / 1e3:.2f}",
                "fetching its batch, µs": lambda row: f"{row['fetch_us']:.0f}",
                "share": lambda row: f"{row['share']:.1%}",
            },
        ),
        sep="\n\n",
    )
    if options.out:
        machine = {"torch": torch.__version__, "machine": platform.machine(), "threads": 1}
        found = {**machine, "batch": BATCH, "deliveries": deliveries, "steps": steps}
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
