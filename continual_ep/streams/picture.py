"""A picture of a stream: a row of samples for each experience, with the names of their classes."""

import math
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.streams.benchmark import ContinualBenchmark

#: Rows of a picture; longer streams show their first experiences.
MOST_ROWS = 20


def draw_stream(
    benchmark: ContinualBenchmark, path: str | Path, *, columns: int = 10, stream: str = "train"
) -> Path:
    """Write a picture of a stream's samples, as the network gets them.

    Images are shown as such, each scaled to its own range; feature vectors as strips of colour.

    :param path: file to write; its ending chooses the format, PNG if it has none.
    :param columns: samples in each row, from as many classes as there are.
    :param stream: ``"train"``, ``"test"`` or ``"validation"``.
    :returns: the path.
    :raises ConfigurationError: for a stream that the benchmark does not have.
    """
    if stream not in benchmark.streams:
        raise ConfigurationError(
            f"stream {stream!r} is not in the benchmark: it has {', '.join(benchmark.streams)}."
        )
    from matplotlib.figure import Figure  # without pyplot there is no global state

    experiences = list(islice(benchmark.streams[stream], MOST_ROWS))
    figure = Figure(figsize=(1.1 * columns + 0.6, 1.3 * len(experiences) + 0.4))
    axes = figure.subplots(len(experiences), columns, squeeze=False)
    for number, experience in enumerate(experiences):
        for column, axis in enumerate(axes[number]):
            axis.axis("off")
            chosen = _spread_over_classes(experience.dataset, columns)
            if column < len(chosen):
                x, label = experience.dataset[chosen[column]][:2]
                _draw(axis, x, benchmark.image_shape)
                axis.set_title(_short(benchmark.class_names_of[number][label]), fontsize=7, pad=2)
        axes[number][0].text(
            -0.25, 0.5, str(number), transform=axes[number][0].transAxes, ha="right", va="center"
        )
    more = benchmark.n_experiences - len(experiences)
    rest = f", {more} more" if more else ""
    figure.suptitle(f"{benchmark.name}: experiences 0 to {len(experiences) - 1}{rest}", fontsize=9)
    figure.tight_layout()
    path = Path(path) if Path(path).suffix else Path(f"{path}.png")
    figure.savefig(path, dpi=110)
    return path


def _spread_over_classes(dataset: Any, count: int) -> list[int]:
    """The first samples of each class in turn."""
    labels = torch.tensor(list(dataset.targets))
    members = [torch.nonzero(labels == label).flatten().tolist() for label in labels.unique()]
    turns = math.ceil(count / len(members))
    chosen = [rows[turn] for rows in members for turn in range(turns) if turn < len(rows)]
    return sorted(chosen[:count], key=lambda row: (int(labels[row]), row))


def _draw(axis: Any, x: Tensor, image_shape: tuple[int, ...] | None) -> None:
    if image_shape is None:
        side = math.ceil(math.sqrt(x.numel()))
        padded = torch.full((side * side,), math.nan)
        padded[: x.numel()] = x.flatten()
        axis.imshow(padded.view(side, side).numpy(), cmap="viridis", aspect="equal")
        return
    image = x.reshape(image_shape)
    if image.dim() == 2 or image.shape[0] == 1:
        axis.imshow(image.reshape(image_shape[-2:]).numpy(), cmap="gray")
        return
    low, high = float(image.min()), float(image.max())
    colours = (image[:3] - low) / ((high - low) or 1.0)
    axis.imshow(colours.permute(1, 2, 0).numpy())


def _short(name: str) -> str:
    wnid, blank, word = name.partition(" ")
    name = word if blank and wnid[1:].isdigit() else name  # "n01440764 tench" is a tench
    return name if len(name) <= 14 else f"{name[:13]}…"
