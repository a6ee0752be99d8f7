"""One night in a picture: which units spike when, and how much."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from continual_ep.experiments.figures import COLOURS, save
from continual_ep.sleep import NightRecording

#: Layers up to this size have a tick for each unit, and keep the order of their units.
FEW = 20


def night_figure(recording: NightRecording, title: str, path: Path) -> Path:
    """Draw the spikes of the first steps, the rates of all units, and the rate of each layer.

    Layers stand above each other, the input lowest. In layers of more than :data:`FEW` units those
    that spike are shown, sorted by their rate, the most active ones on top.
    """
    layers = len(recording.layers)
    figure = Figure(figsize=(9, 2.2 + 1.7 * layers), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.add_gridspec(layers + 1, 2, height_ratios=[*[1.0] * layers, 0.9])
    for layer in range(layers):
        row, order = layers - 1 - layer, _order(recording, layer)
        left = figure.add_subplot(grid[row, 0])
        _draw_raster(left, recording, layer, order)
        right = figure.add_subplot(grid[row, 1])
        if layer:
            image = _draw_rates(right, recording, layer, order)
            figure.colorbar(image, ax=right, label="spikes per step", pad=0.01)
        else:
            _draw_input(right, recording)
        if not row:
            left.set_title(f"spikes of the first {recording.window} steps", fontsize=9)
            right.set_title("rate of each unit over the night", fontsize=9)
    _draw_layer_rates(figure.add_subplot(grid[layers, :]), recording)
    return save(figure, path)


def _order(recording: NightRecording, layer: int) -> NDArray[Any]:
    """The place of each unit in the picture, from below."""
    units = recording.units[layer]
    if not layer or units <= FEW:
        return np.arange(units)
    return recording.part_counts[layer - 1].sum(0).argsort(kind="stable").argsort()


def _draw_raster(axis: Any, recording: NightRecording, layer: int, order: NDArray[Any]) -> None:
    steps, units = recording.raster[layer]
    size = min(10.0, max(1.0, 500 / recording.units[layer]))
    axis.scatter(steps, order[units], s=size, color=_colour(layer), linewidths=0)
    _label_units(axis, recording, layer)
    name, silent = _name(recording, layer), _silent(recording, layer)
    if layer and recording.units[layer] > FEW:
        name += f"\n{recording.units[layer] - silent} of {recording.units[layer]} units"
    axis.set(xlim=(0, recording.window), ylabel=name)


def _draw_rates(axis: Any, recording: NightRecording, layer: int, order: NDArray[Any]) -> Any:
    rates = recording.rates()[layer - 1].T
    placed = np.empty_like(rates)
    placed[order] = rates
    extent = (0, int(recording.ends[-1]), -0.5, len(rates) - 0.5)
    image = axis.imshow(
        placed,
        aspect="auto",
        origin="lower",
        extent=extent,
        cmap="magma",
        norm=PowerNorm(0.5, vmin=0, vmax=max(float(rates.max()), 1e-9)),
        interpolation="nearest",
    )
    _label_units(axis, recording, layer)
    return image


def _draw_input(axis: Any, recording: NightRecording) -> None:
    axis.plot(*_smooth(recording, 0), color=_colour(0), linewidth=1)
    axis.set(xlim=(0, len(recording.counts)), ylim=(0, None), ylabel="spikes / unit / step")
    axis.grid(alpha=0.3)


def _draw_layer_rates(axis: Any, recording: NightRecording) -> None:
    for layer in range(1, len(recording.layers)):
        axis.plot(
            *_smooth(recording, layer),
            color=_colour(layer),
            linewidth=1.2,
            marker=".",
            markersize=3,
            label=_name(recording, layer),
        )
    axis.set(xlim=(0, len(recording.counts)), xlabel="step", ylabel="spikes / unit / step")
    if recording.counts[:, 1:].any():
        axis.set_yscale("log")  # often there are many spikes at first and few later
    axis.legend(fontsize=7, frameon=False)
    axis.grid(alpha=0.3)


def _smooth(recording: NightRecording, layer: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The rate per unit in each part of the night, at the middle of the part."""
    begins = np.concatenate([[0], recording.ends[:-1]])
    counts = np.add.reduceat(recording.counts[: recording.ends[-1], layer].astype(float), begins)
    rates = counts / (recording.ends - begins) / max(1, recording.units[layer])
    return (begins + recording.ends) / 2, rates


def _label_units(axis: Any, recording: NightRecording, layer: int) -> None:
    units = recording.units[layer]
    axis.set_ylim(_silent(recording, layer) - 0.5, units - 0.5)
    if units <= FEW:
        axis.set_yticks(range(units))
        axis.tick_params(axis="y", labelsize=6)


def _silent(recording: NightRecording, layer: int) -> int:
    """How many units are left out of the picture, since they never spike."""
    if not layer or recording.units[layer] <= FEW:
        return 0
    silent = int((recording.part_counts[layer - 1].sum(0) == 0).sum())
    return silent if silent < recording.units[layer] else 0


def _name(recording: NightRecording, layer: int) -> str:
    """A layer is named by the weight that feeds it."""
    name = recording.layers[layer]
    return f"output ({name})" if layer == len(recording.layers) - 1 else name


def _colour(layer: int) -> str:
    return "#555555" if not layer else COLOURS[(layer - 1) % len(COLOURS)]
