"""One configuration makes one run: a folder of cells, a table, figures."""

import os
from pathlib import Path

from rich.console import Console
from torch import Tensor

from continual_ep.errors import ConfigurationError, ContinualEPError, warnings_to
from continual_ep.experiments.build import Built, Refusal, Streams, build_cell, check_device
from continual_ep.experiments.cell import limited_threads
from continual_ep.experiments.cells import RESULT, Cell, cells_of
from continual_ep.experiments.compare import Comparison, compare
from continual_ep.experiments.config import RunConfig
from continual_ep.experiments.display import Display
from continual_ep.experiments.environment import environment
from continual_ep.experiments.folder import check_folder, note_environment, opened_folder
from continual_ep.experiments.randomness import preserved_rng
from continual_ep.experiments.report import show, write
from continual_ep.experiments.workers import RunningCells, run_here, run_in_processes
from continual_ep.streams import ContinualBenchmark


def run(config: RunConfig, *, console: Console | None = None, fork: bool = False) -> Comparison:
    """Trains all cells that are not done yet, and compares the arms.

    Repeated with the same configuration it goes on where it was stopped, to the same numbers.

    :param console: where to report; default: standard output.
    :param fork: start workers by fork, which is fast. Right only for a process that has not yet
        computed with torch in several threads or by autograd, as the command line.
    :returns: the comparison of the arms, already written into the folder.
    :raises ContinualEPError: for options that cannot work, before anything is written; after the
        run, when cells have failed.
    """
    console = console or Console()
    check_folder(config)
    check_device(config.device)
    streams = Streams(config)
    with warnings_to(lambda text: console.print(f"warning: {text}", markup=False, highlight=False)):
        streams.of(config.seeds[0])
    cells = possible_cells(config, streams, console)
    with opened_folder(config) as folder:
        note_environment(folder, environment(config))
        failed = _train(config, streams, cells, folder, console, fork)
        if len(failed) == len(cells):
            raise ContinualEPError(_failure(failed, folder))
        comparison = compare([folder])
        show(comparison, console)
        figures = write(comparison, folder)
        console.print(f"results: {folder}", highlight=False, soft_wrap=True)
        console.print(f"figure:  {figures[0]}", highlight=False, soft_wrap=True)
        if failed:
            raise ContinualEPError(_failure(failed, folder))
        return comparison


def possible_cells(config: RunConfig, streams: Streams, console: Console) -> list[Cell]:
    """The cells of a run without those whose mechanisms cannot work with their learner.

    Builds each kind of cell once: what cannot work is refused before there is a folder.

    :param console: where it is said what is left out, and why.
    :raises ConfigurationError: for an arm that works with none of the learners.
    """
    benchmark = streams.of(config.seeds[0])
    example = benchmark.train_stream[0].dataset[0][0].unsqueeze(0)
    refused: dict[tuple[str, str], str] = {}
    cells = cells_of(config)
    # With the threads of the workers: a process that has started more must not fork.
    with limited_threads(config.threads), preserved_rng(), warnings_to(lambda text: None):
        for cell in cells:
            if cell.seed != config.seeds[0]:
                continue
            try:
                _check_cell(build_cell(config, cell, benchmark), benchmark, example, cell)
            except Refusal as refusal:
                refused[cell.label, cell.arm.label] = str(refusal)
    possible = [cell for cell in cells if (cell.label, cell.arm.label) not in refused]
    working = {cell.arm.label for cell in possible}
    for (label, arm), reason in refused.items():
        if arm not in working:
            raise ConfigurationError(f"arm {arm!r}: {reason}")
        text = f"left out: {label} | {arm}: {reason}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    # Numbered anew: the number of a cell is its place in the list.
    return [cell._replace(number=number) for number, cell in enumerate(possible)]


def _check_cell(built: Built, benchmark: ContinualBenchmark, example: Tensor, cell: Cell) -> None:
    for plugin in built.assembly.plugins:
        check = getattr(plugin, "check", None)
        if check is None:
            continue
        try:
            check(built.strategy, benchmark.train_stream[0], example)
        except ConfigurationError as error:
            raise Refusal(f"it cannot work with {cell.label}: {error}") from error


def _train(
    config: RunConfig,
    streams: Streams,
    cells: list[Cell],
    folder: Path,
    console: Console,
    fork: bool,
) -> list[Cell]:
    """Train what is left to train; return the cells that failed."""
    waiting = [cell for cell in cells if not (cell.folder(folder) / RESULT).exists()]
    if len(waiting) < len(cells):
        done = len(cells) - len(waiting)
        console.print(f"{done} of {len(cells)} cells are done already", highlight=False)
    experiences = len(streams.of(config.seeds[0]).test_stream)
    display = Display(console, cells, experiences=experiences)
    workers = worker_count(config, len(waiting))
    # Threads and CUDA do not survive a fork; a backbone uses both.
    fork = fork and config.threads == 1 and config.device == "cpu"
    fork = fork and config.stream.images.backbone is None
    with display.watching(len(waiting)) as listener:
        if workers == 1:
            run_here(RunningCells(config, folder, streams), waiting, listener)
        else:
            setup = RunningCells(config, folder, streams if fork else None)
            method = "fork" if fork else "spawn"
            run_in_processes(setup, waiting, listener, workers=workers, method=method)
    return [cell for cell, _ in display.problems]


def _failure(cells: list[Cell], folder: Path) -> str:
    first = cells[0]
    return (
        f"{len(cells)} of the cells failed, the first being {first.label}, {first.arm.label}, seed "
        f"{first.seed} (see above). What is complete is in {folder}; the same command tries the "
        "others again"
    )


def worker_count(config: RunConfig, cells: int) -> int:
    """How many processes work: as many as asked, as cores allow, and as there are cells."""
    if config.workers != "auto":
        return max(1, min(config.workers, cells))
    if config.device != "cpu":
        return 1  # several processes on one GPU are for those who ask
    return max(1, min(len(os.sched_getaffinity(0)) // config.threads, cells))
