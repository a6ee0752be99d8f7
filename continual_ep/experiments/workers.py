"""Cells spread over processes. The numbers do not depend on how many there are."""

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

from continual_ep.errors import ContinualEPError
from continual_ep.experiments.cells import Cell
from continual_ep.experiments.config import RunConfig
from continual_ep.experiments.events import Event, Listener

#: Prepares a process and returns what runs one cell; it must be picklable for "spawn".
Setup = Callable[[], Callable[[Cell, Listener], None]]


@dataclass(frozen=True)
class RunningCells:
    """What a worker needs to run cells.

    :param benchmark: the stream if the worker inherits it (fork), else None: it is built anew.
    """

    config: RunConfig
    folder: Path
    benchmark: Any = None

    def __call__(self) -> Callable[[Cell, Listener], None]:
        from continual_ep.experiments.build import build_stream
        from continual_ep.experiments.cell import CellRun
        from continual_ep.experiments.warned import warnings_to

        with warnings_to(lambda text: None):  # the parent has said it already
            benchmark = self.benchmark or build_stream(self.config)

        def run(cell: Cell, listener: Listener) -> None:
            CellRun(self.config, cell, benchmark, self.folder, listener).run()

        return run


def run_guarded(run: Callable[[Cell, Listener], None], cell: Cell, listener: Listener) -> None:
    """Runs a cell; an exception becomes an event, so that the other cells go on."""
    try:
        run(cell, listener)
    except ContinualEPError as error:
        listener(Event(cell.number, "failed", {"message": str(error)}))
    except Exception:
        listener(Event(cell.number, "crashed", {"message": traceback.format_exc()}))


def run_here(setup: Setup, cells: Sequence[Cell], listener: Listener) -> None:
    """All cells one after the other in this process."""
    run = setup()
    for cell in cells:
        run_guarded(run, cell, listener)


def run_in_processes(
    setup: Setup, cells: Sequence[Cell], listener: Listener, *, workers: int, method: str
) -> None:
    """All cells in ``workers`` processes; events arrive here, one at a time.

    :param method: ``"fork"`` (starts at once; only for a parent that has not computed with several
        threads, with autograd or on a GPU) or ``"spawn"``.
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
        """The next cell, or the end."""
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
        """A worker has died, for example because memory ran out; its other cells get a new one."""
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
            process.kill()  # nothing is lost: files are replaced in one step
        for pipe, (process, _) in self.busy.items():
            process.join()
            pipe.close()
        self.busy.clear()


def _worker(pipe: Connection, setup: Setup, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which stops us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_parent(parent)
    run = setup()
    while True:
        cell = pipe.recv()
        if cell is None:
            return
        run_guarded(run, cell, pipe.send)


def _die_with_parent(parent: int) -> None:
    """A killed run must not leave workers behind that write into its folder."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
