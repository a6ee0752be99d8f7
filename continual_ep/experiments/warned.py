"""The package's own warnings, handed to the display instead of the screen; only inside a run."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from continual_ep.errors import ContinualEPWarning


@contextmanager
def warnings_to(say: Callable[[str], None]) -> Iterator[None]:
    """Passes the package's own warnings to ``say``, once each."""
    said: set[str] = set()
    with warnings.catch_warnings():
        # Once per cell, not once per process: another cell is another network.
        warnings.simplefilter("always", ContinualEPWarning)
        show = warnings.showwarning

        def showwarning(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, ContinualEPWarning):
                show(message, category, *place, **more)
            elif str(message) not in said:
                said.add(str(message))
                say(str(message))

        warnings.showwarning = showwarning
        yield
