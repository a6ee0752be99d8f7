"""The errors and the warning of the package. Each message names the thing, its value and the remedy."""

import sys
import warnings
from collections.abc import Iterable

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
