"""One configuration makes one run: a folder of cells, a table, figures."""

import os
from pathlib import Path

from rich.console import Console

from continual_ep.errors import ContinualEPError, warnings_to
from continual_ep.experiments.build import build_cell, build_stream, check_device
from continual_ep.experiments.cells import RESULT, Cell, cells_of
from continual_ep.experiments.compare import Comparison, compare, show
from continual_ep.experiments.config import RunConfig
from continual_ep.experiments.display import Display
from continual_ep.experiments.environment import environment
from continual_ep.experiments.folder import check_folder, note_environment, opened_folder
from continual_ep.experiments.randomness import preserved_rng
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
    with warnings_to(lambda text: console.print(f"warning: {text}", markup=False, highlight=False)):
        benchmark = build_stream(config)
    _check_cells(config, benchmark)
    with opened_folder(config) as folder:
        note_environment(folder, environment(config))
        failed = _train(config, benchmark, folder, console, fork)
        if len(failed) == len(cells_of(config)):
            raise ContinualEPError(_failure(failed, folder))
        comparison = compare([folder])
        show(comparison, console)
        figures = comparison.write(folder)
        console.print(f"results: {folder}", highlight=False, soft_wrap=True)
        console.print(f"figure:  {figures[0]}", highlight=False, soft_wrap=True)
        if failed:
            raise ContinualEPError(_failure(failed, folder))
        return comparison


def _check_cells(config: RunConfig, benchmark: ContinualBenchmark) -> None:
    """Builds each kind of cell once: what cannot work is refused before there is a folder."""
    example = benchmark.train_stream[0].dataset[0][0].unsqueeze(0)
    with preserved_rng(), warnings_to(lambda text: None):
        for cell in cells_of(config):
            if cell.seed == config.seeds[0]:
                built = build_cell(config, cell, benchmark)
                for plugin in built.plugins.values():
                    if hasattr(plugin, "check"):
                        plugin.check(built.strategy, benchmark.train_stream[0], example)


def _train(
    config: RunConfig,
    benchmark: ContinualBenchmark,
    folder: Path,
    console: Console,
    fork: bool,
) -> list[Cell]:
    """Trains what is left to train; returns the cells that failed."""
    cells = cells_of(config)
    waiting = [cell for cell in cells if not (cell.folder(folder) / RESULT).exists()]
    if len(waiting) < len(cells):
        done = len(cells) - len(waiting)
        console.print(f"{done} of {len(cells)} cells are done already", highlight=False)
    display = Display(
        console,
        cells,
        experiences=len(benchmark.test_stream),
        epochs=config.training.epochs,
    )
    workers = worker_count(config, len(waiting))
    # Threads and CUDA do not survive a fork; a backbone uses both.
    fork = fork and config.threads == 1 and config.device == "cpu"
    fork = fork and config.stream.images.backbone is None
    with display.watching(len(waiting)) as listener:
        if workers == 1:
            run_here(RunningCells(config, folder, benchmark), waiting, listener)
        else:
            setup = RunningCells(config, folder, benchmark if fork else None)
            method = "fork" if fork else "spawn"
            run_in_processes(setup, waiting, listener, workers=workers, method=method)
    return [cell for cell, _ in display.problems]


def _failure(cells: list[Cell], folder: Path) -> str:
    first = cells[0]
    return (
        f"{len(cells)} of the cells failed, the first being {first.label}, {first.arm}, seed "
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
