"""Pictures of the nights of a run: a cell is trained again, to the same numbers, and recorded."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from continual_ep.errors import ConfigurationError
from continual_ep.experiments.build import Built, Streams
from continual_ep.experiments.cell import NIGHTS, CellRun
from continual_ep.experiments.cells import RESULT, Cell, cells_of
from continual_ep.experiments.compare import Result, compare
from continual_ep.experiments.config import RunConfig, config_from, read_yaml
from continual_ep.experiments.display import Display
from continual_ep.experiments.figures import change_figure, margin_figure
from continual_ep.experiments.folder import CONFIG
from continual_ep.experiments.night_figure import night_figure
from continual_ep.experiments.report import make_empty
from continual_ep.sleep import NightRecording, SpikeRecorder


class RecordedCell(CellRun):
    """Trains a cell again and records its nights.

    :param folder: an empty one; what the run has written stays as it is.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.recorder = SpikeRecorder()
        #: By experience.
        self.recordings: dict[int, NightRecording] = {}

    def _build(self, log: Path | None) -> Built:
        built = super()._build(log)
        built.sleep.recorder = self.recorder
        return built

    def _note_night(self, sleep: Any, experience: int) -> None:
        super()._note_night(sleep, experience)
        if self.recorder.recordings:
            self.recordings[experience] = self.recorder.recordings.pop()


def draw_nights(path: Path, out: Path | None, console: Console) -> list[Path]:
    """Draw the nights of a cell: margins, changes of weights, spikes and rates.

    The cell is trained again, with the probe, since a run keeps no spikes and no weights from before
    a night. Its accuracies and nights are compared with those on disk.

    :param path: folder of a run or of one of its cells; of a run the first cell with a night is drawn.
    :param out: where to; None: the folder ``nights`` of the cell.
    :returns: the pictures.
    :raises ConfigurationError: for a folder without a night, or without the run's configuration; when
        ``out`` holds anything or cannot be written.
    """
    known = _first_with_nights(path)
    config, cell = _cell_of(known)
    target = known.path.parent / NIGHTS
    if out is None:
        target.mkdir(exist_ok=True)
    else:
        target = out
        make_empty(target)
    title = f"{cell.label} | {cell.arm.label} | seed {cell.seed}"
    console.print(f"training again, to the same numbers: {title}", markup=False, highlight=False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recorded = _trained_again(config, cell, folder, console)
        again = compare([folder])
        new = again.groups[0].any_result
        same = new.record == known.record and _nights_of(new.path) == _nights_of(known.path)
        if not same:
            console.print(
                "warning: this training gave other numbers than the run (final accuracy "
                f"{new.metrics['pooled_accuracy']:.4f}, not {known.metrics['pooled_accuracy']:.4f}): "
                "another machine, device, number of threads or version. The pictures show this one",
                markup=False,
                highlight=False,
            )
        pictures = [
            *margin_figure(again.groups, target / "margins.png"),
            *change_figure(again.groups, target / "weights.png"),
        ]
    for experience, recording in recorded.recordings.items():
        row = new.record.trained.index(experience)
        before, after = (100 * p[row] for p in (new.record.pooled_awake, new.record.pooled_asleep))
        names = known.stream["class_names"]
        newest = [names[c] for c in known.stream["classes_per_experience"][experience]]
        heading = (
            f"{title}\nnight after experience {experience + 1} (classes {', '.join(newest)}): "
            f"accuracy {before:.1f} % → {after:.1f} %{_outcome(known, experience)}"
        )
        picture = target / f"night-after-experience-{experience + 1}.png"
        pictures.append(night_figure(recording, heading, picture))
    return pictures


def _first_with_nights(path: Path) -> Result:
    results = [result for group in compare([path]).groups for result in group.results.values()]
    for result in sorted(results, key=lambda result: result.number):
        if any(result.record.slept):
            return result
    raise ConfigurationError(
        f"no complete cell under {path} has slept: give a run with the arm sleep"
    )


def _outcome(result: Result, experience: int) -> str:
    """What the guard did, unless the whole night was kept."""
    nights = {night["after_experience"]: night for night in result.nights}
    outcome = nights[experience].get("outcome", "slept")
    return "" if outcome == "slept" else f" ({outcome}; drawn as it was simulated)"


def _cell_of(result: Result) -> tuple[RunConfig, Cell]:
    """The configuration of the run, with the probe, and the cell of a result."""
    folder = result.path.parent
    run = folder.parents[2]
    if not (run / CONFIG).exists():
        raise ConfigurationError(
            f"{folder} is in no folder of a run: {run / CONFIG} is missing, so it cannot be trained again"
        )
    config = config_from(read_yaml(run / CONFIG), str(run / CONFIG))
    config = replace(config, probe=True, tensorboard=False)
    for cell in cells_of(config):
        if cell.folder(run) == folder:
            return config, cell._replace(number=0)
    raise ConfigurationError(f"{folder} is no cell of the run of {run / CONFIG}")


def _trained_again(config: RunConfig, cell: Cell, folder: Path, console: Console) -> RecordedCell:
    benchmark = Streams(config).of(cell.seed)
    display = Display(console, [cell], experiences=len(benchmark.test_stream))
    with display.watching(1) as listener:
        recorded = RecordedCell(config, cell, benchmark, folder, listener)
        recorded.run()
    return recorded


def _nights_of(path: Path) -> Any:
    assert path.name == RESULT
    return json.loads(path.read_text(encoding="utf-8"))["nights"]
