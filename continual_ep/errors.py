"""The errors and the warning of the package. Each message names the thing, its value and the remedy."""


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
