"""Show the progress of a run: a bar with the time left on a terminal, plain lines elsewhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from continual_ep.experiments.cells import Cell, Event, Listener


class Display:
    """Print the events of cells as lines and, on a terminal, as a bar.

    :param cells: the cells of the run, by number.
    :param experiences: number of experiences of the stream.
    """

    def __init__(self, console: Console, cells: Sequence[Cell], *, experiences: int) -> None:
        self.console, self.cells, self.experiences = console, cells, experiences
        self.problems: list[tuple[Cell, Event]] = []
        self._seen: set[str] = set()
        self._progress: Progress | None = None
        self._done = 0.0

    @contextmanager
    def watching(self, waiting: int) -> Iterator[Listener]:
        """Show the events that are passed to the listener.

        :param waiting: number of cells still to be run.
        """
        if not self.console.is_terminal:
            yield self.handle
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("experiences, left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            self._progress = progress
            progress.add_task("training", total=waiting * self.experiences)
            try:
                yield self.handle
            finally:
                self._progress = None

    def handle(self, event: Event) -> None:
        getattr(self, f"_on_{event.kind}")(event, self.cells[event.cell])

    def _on_started(self, event: Event, cell: Cell) -> None:
        done = event.data["done"]
        self._advance(done)
        if done:
            self._line(cell, f"resumed after experience {done}/{self.experiences}")
        elif event.data["again"]:
            self._line(cell, f"starts again: {event.data['again']}")

    def _on_epoch(self, event: Event, cell: Cell) -> None:
        self._advance(event.data["part"])

    def _on_experience(self, event: Event, cell: Cell) -> None:
        data = event.data
        text = f"accuracy {data['asleep']:.1%}"
        if data["slept"]:
            text = f"accuracy {data['awake']:.1%} awake, {data['asleep']:.1%} after sleep"
        if data.get("night") in ("weakened", "restored", "skipped"):
            text += f" (night {data['night']})"
        text = f"experience {data['number']}/{self.experiences}: {text}, {data['seconds']:.1f} s"
        # On a terminal the bar shows the progress, and one line per cell is enough.
        if self._progress is None or data["number"] == self.experiences:
            self._line(cell, text)

    def _on_finished(self, event: Event, cell: Cell) -> None:
        pass

    def _on_failed(self, event: Event, cell: Cell) -> None:
        self.problems.append((cell, event))
        self._line(cell, f"failed: {event.data['message']}")

    def _on_crashed(self, event: Event, cell: Cell) -> None:
        self.problems.append((cell, event))
        self._line(cell, f"crashed:\n{event.data['message']}")

    def _on_warning(self, event: Event, cell: Cell) -> None:
        message = event.data["message"]
        if message not in self._seen:
            self._seen.add(message)
            self._line(cell, f"warning: {message}")

    def _advance(self, experiences: float) -> None:
        self._done += experiences
        if self._progress is not None:
            # Rounded: ten tenths of an experience are a whole one.
            self._progress.update(self._progress.task_ids[0], completed=round(self._done, 6))

    def _line(self, cell: Cell, text: str) -> None:
        width = len(str(len(self.cells)))
        place = f"[{cell.number + 1:{width}d}/{len(self.cells)}]"
        line = f"{place} {cell.label} | {cell.arm.label} | seed {cell.seed} | {text}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.file.flush()  # also when the output goes to a file
