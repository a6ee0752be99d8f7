"""How far long work is: a bar with the time left on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def show_progress(
    label: str, unit: str, total: int, done: int = 0, *, every: float = 60.0
) -> Iterator[Callable[[int], object]]:
    """Show the progress on stderr; yields the function that takes the number of units done.

    :param done: units that need no time; :param every: seconds between lines where there is no terminal.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit}, left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(label, total=total, completed=done)
            yield lambda count: bar.update(task, completed=count)
        return
    started = printed = time.monotonic()

    def line(count: int) -> None:
        nonlocal printed
        now = time.monotonic()
        if now - printed >= every:
            printed = now
            left = (now - started) / max(1, count - done) * (total - count)
            time_left = f"{left / 60:.0f} min" if left >= 120 else f"{left:.0f} s"
            console.print(
                f"{label}: {count:,} of {total:,} {unit}, {time_left} left", highlight=False
            )

    yield line
