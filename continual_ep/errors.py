"""The errors and the warning of the package. Each message names the thing, its value and the remedy."""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

#: Packages between the user's line and ours, which a warning should not point at.
BETWEEN = ("continual_ep", "torch", "avalanche")


class ContinualEPError(Exception):
    """Something the user can put right; the command line prints its message without a traceback."""


class ConfigurationError(ContinualEPError, ValueError):
    """An option or a combination of options that cannot work."""


class InputError(ContinualEPError, ValueError):
    """Data of the wrong shape, type or range."""


class DivergenceError(ContinualEPError, ArithmeticError):
    """A relaxation reached NaN or infinity."""


class MissingDataError(ContinualEPError, FileNotFoundError):
    """A data set that is not on disk; nothing is downloaded without being asked."""


class CheckpointError(ContinualEPError, RuntimeError):
    """A checkpoint that is damaged or belongs to another configuration."""


class ContinualEPWarning(UserWarning):
    """The category of all of the package's own warnings, so that they can be filtered as one."""


def warn_user(message: str) -> None:
    """Warn, pointing at the user's own line: the first outside of the packages on the way."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None:
        if frame.f_globals.get("__name__", "").split(".")[0] not in BETWEEN:
            break
        level, frame = level + 1, frame.f_back
    warnings.warn(message, ContinualEPWarning, stacklevel=level)


class WarnOnce:
    """Warnings that are given once for each key.

    :param seen: keys that have been warned of already, as of a restored state.
    """

    def __init__(self, seen: Iterable[str] = ()) -> None:
        self.seen = set(seen)

    def warn(self, key: str, message: str) -> None:
        """Warn, unless this key has been warned of."""
        if key not in self.seen:
            self.seen.add(key)
            warn_user(message)


@contextmanager
def reading_state(owner: str) -> Iterator[None]:
    """Raise :class:`CheckpointError` for whatever a damaged state raises while it is read.

    :param owner: whose state it is, for the message.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the state of {owner} is damaged: {error!r}") from error


@contextmanager
def warnings_to(handle: Callable[[str], None]) -> Iterator[None]:
    """Pass the text of each of the package's warnings to ``handle`` once, instead of showing it.

    Other warnings are shown as before.
    """
    seen: set[str] = set()
    with warnings.catch_warnings():
        # Once for each call, not once for each process: another cell is another network.
        warnings.simplefilter("always", ContinualEPWarning)
        show = warnings.showwarning

        def showwarning(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, ContinualEPWarning):
                show(message, category, *place, **more)
            elif str(message) not in seen:
                seen.add(str(message))
                handle(str(message))

        warnings.showwarning = showwarning
        yield
