"""Images or features of the user's own, in one ``.npz`` file."""

import zipfile
from pathlib import Path

import numpy as np

from continual_ep.errors import InputError, MissingDataError
from continual_ep.streams.arrays import Arrays

KEYS = ("train_x", "train_y", "test_x", "test_y")


def load_npz(path: Path) -> Arrays:
    """``train_x, train_y, test_x, test_y`` of one file, and ``class_names`` of labels 0, 1, ... if any.

    Files that hold pickled objects are refused: loading them could run code.

    :raises MissingDataError: a file that is not there.
    :raises InputError: a file that is damaged, wants pickle, or holds unusable arrays.
    """
    if not path.is_file():
        raise MissingDataError(f"there is no file {str(path.absolute())!r}: check the path.")
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"{path} is no .npz file, or one that was cut short: write it with numpy.savez."
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in KEYS if key not in archive]
            if missing:
                raise InputError(
                    f"{path} lacks {missing}: it needs {list(KEYS)} and holds {archive.files}."
                )
            arrays = [archive[key] for key in KEYS]
            names = archive["class_names"].tolist() if "class_names" in archive else None
    except InputError:
        raise
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        wants_pickle = "Object arrays" in str(error)
        reason = "it holds pickled objects, which could run code" if wants_pickle else str(error)
        raise InputError(
            f"{path} cannot be read as plain arrays ({reason}): write it with numpy.savez from "
            "arrays of numbers."
        ) from error
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise InputError(f"class_names in {path} must be a list of strings, one for each label.")
    train_x, train_y, test_x, test_y = arrays
    return Arrays.checked(train_x, train_y, test_x, test_y, names)
