"""Run cells in several processes. Results do not depend on the number of processes."""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from continual_ep.errors import ContinualEPError, warnings_to
from continual_ep.experiments.cells import Cell, Event, Listener
from continual_ep.experiments.config import RunConfig

#: Prepares a process and returns the function that runs one cell; picklable for "spawn".
Setup = Callable[[], Callable[[Cell, Listener], None]]


@dataclass(frozen=True)
class RunningCells:
    """The :data:`Setup` of a run's cells.

    :param streams: the streams, if the worker inherits them by fork; None to build them there.
    """

    config: RunConfig
    folder: Path
    streams: Any = None

    def __call__(self) -> Callable[[Cell, Listener], None]:
        from continual_ep.experiments.build import Streams
        from continual_ep.experiments.cell import CellRun, limited_threads

        streams = self.streams or Streams(self.config)

        def run(cell: Cell, listener: Listener) -> None:
            # The parent has shown the warnings. After a fork torch's other threads are gone, and work
            # that is given to them is never done.
            with limited_threads(self.config.threads), warnings_to(lambda text: None):
                benchmark = streams.of(cell.seed)
            CellRun(self.config, cell, benchmark, self.folder, listener).run()

        return run


def run_guarded(run: Callable[[Cell, Listener], None], cell: Cell, listener: Listener) -> None:
    """Run a cell; an exception becomes an event, so that the other cells still run."""
    try:
        run(cell, listener)
    except ContinualEPError as error:
        listener(Event(cell.number, "failed", {"message": str(error)}))
    except Exception:
        listener(Event(cell.number, "crashed", {"message": traceback.format_exc()}))


def run_here(setup: Setup, cells: Sequence[Cell], listener: Listener) -> None:
    """Run all cells one after the other in this process."""
    run = setup()
    for cell in cells:
        run_guarded(run, cell, listener)


def run_in_processes(
    setup: Setup, cells: Sequence[Cell], listener: Listener, *, workers: int, method: str
) -> None:
    """Run all cells in ``workers`` processes and pass their events to ``listener``, one at a time.

    :param method: ``"fork"`` (fast; only in a process that has not used several threads, autograd or
        a GPU) or ``"spawn"``.
    """
    pool = _Pool(setup, list(reversed(cells)), listener, method)
    try:
        for _ in range(min(workers, len(cells))):
            pool.start()
        while pool.busy:
            pool.wait()
    finally:
        pool.stop()


@dataclass
class _Pool:
    setup: Setup
    left: list[Cell]
    listener: Listener
    method: str
    busy: dict[Connection, tuple[BaseProcess, Cell | None]] = field(default_factory=dict)

    def start(self) -> None:
        context: Any = get_context(self.method)
        pipe, worker_pipe = context.Pipe()
        process = context.Process(
            target=_worker, args=(worker_pipe, self.setup, os.getpid()), daemon=True
        )
        process.start()
        worker_pipe.close()
        self.busy[pipe] = (process, None)
        self._send_next(pipe)

    def _send_next(self, pipe: Connection) -> None:
        """Send a worker its next cell, or None to end it."""
        process, _ = self.busy[pipe]
        cell = self.left.pop() if self.left else None
        self.busy[pipe] = (process, cell)
        try:
            pipe.send(cell)
        except OSError:
            self._reap(pipe)
            return
        if cell is None:
            del self.busy[pipe]
            process.join()
            pipe.close()

    def wait(self) -> None:
        for pipe in connection.wait(list(self.busy)):
            assert isinstance(pipe, Connection)
            try:
                event = pipe.recv()
            except (EOFError, OSError):
                self._reap(pipe)
                continue
            self.listener(event)
            if event.kind in ("finished", "failed", "crashed"):
                self._send_next(pipe)

    def _reap(self, pipe: Connection) -> None:
        """Report the cell of a dead worker as failed; start another worker for the cells left."""
        process, cell = self.busy.pop(pipe)
        process.join()
        pipe.close()
        if cell is not None:
            code = process.exitcode or 0
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            message = f"its process {how}; if memory ran out, use fewer --workers"
            self.listener(Event(cell.number, "failed", {"message": message}))
        if self.left:
            self.start()

    def stop(self) -> None:
        for process, _ in self.busy.values():
            process.kill()  # files are replaced atomically
        for pipe, (process, _) in self.busy.items():
            process.join()
            pipe.close()
        self.busy.clear()


def _worker(pipe: Connection, setup: Setup, parent: int) -> None:
    # Ctrl-C reaches the parent, which stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_parent(parent)
    run = setup()
    while True:
        cell = pipe.recv()
        if cell is None:
            return
        run_guarded(run, cell, pipe.send)


def _die_with_parent(parent: int) -> None:
    """End this worker when its parent dies, so that nothing writes into the run's folder any more."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the line above
        os._exit(1)
