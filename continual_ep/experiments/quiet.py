"""Warnings of others that our users can do nothing about; ours are handed to the display.

The filters hold only inside a run: importing this package changes none.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from continual_ep.errors import ContinualEPWarning

#: Category, start of the message (a regular expression), and why users need not see it.
THIRD_PARTY: tuple[tuple[type[Warning], str, str], ...] = (
    (UserWarning, "No loggers specified", "our numbers go to files; loggers are an option"),
)


@contextmanager
def quiet(say: Callable[[str], None]) -> Iterator[None]:
    """Silences :data:`THIRD_PARTY` and passes the package's own warnings to ``say``, once each."""
    said: set[str] = set()
    with warnings.catch_warnings():
        for category, message, _why in THIRD_PARTY:
            warnings.filterwarnings("ignore", message, category)
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
