"""Where arrays come from: one small function per data set, in one registry.

A new stream is one function ``(root, download) -> Arrays`` under ``@source("its-name")``.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from continual_ep.errors import ConfigurationError, InputError, MissingDataError
from continual_ep.streams.arrays import Arrays
from continual_ep.streams.selection import named_generator

Source = Callable[[Path, bool], Arrays]
SOURCES: dict[str, Source] = {}

DEFAULT_ROOT = Path("data")
NPZ_KEYS = ("train_x", "train_y", "test_x", "test_y")


def source(name: str) -> Callable[[Source], Source]:
    """Register a function ``(root, download) -> Arrays`` under the stream's name."""

    def register(function: Source) -> Source:
        SOURCES[name] = function
        return function

    return register


def load_source(name: str | Path, root: str | Path | None = None, download: bool = False) -> Arrays:
    """The arrays of a named set, or of an ``.npz`` file.

    :param name: a key of :data:`SOURCES` or a path that ends with ``.npz``.
    :param root: folder of the downloaded sets; ``data`` when None.
    :param download: fetch a missing set; nothing is downloaded without it.
    :raises ConfigurationError: an unknown name.
    :raises MissingDataError: a set or file that is not on disk.
    :raises InputError: a file that is damaged or holds unusable arrays.
    """
    if str(name) in SOURCES:
        return SOURCES[str(name)](DEFAULT_ROOT if root is None else Path(root), download)
    if str(name).endswith(".npz"):
        return load_npz(Path(name))
    known = ", ".join(SOURCES)
    raise ConfigurationError(f"stream {str(name)!r} is unknown: use {known} or a path to an .npz.")


@source("digits")
def digits(root: Path, download: bool) -> Arrays:
    """scikit-learn's 1,797 handwritten digits, 8x8 in 0..16; a fifth of each class is the test.

    The split is the same on every machine and for every seed.
    """
    from sklearn.datasets import load_digits  # slow to import; only this stream needs it

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 8, 8) / 16.0).astype(np.float32)
    generator = named_generator(0, "digits test split")
    test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        order = torch.randperm(len(members), generator=generator).numpy()
        test[members[order[: round(len(members) / 5)]]] = True
    names = [str(digit) for digit in range(10)]
    return Arrays.checked(images[~test], labels[~test], images[test], labels[test], names)


@source("mnist")
def mnist(root: Path, download: bool) -> Arrays:
    """LeCun's 70,000 handwritten digits, 28x28."""
    return _torchvision_set("mnist", "MNIST", root, download)


@source("fashion-mnist")
def fashion_mnist(root: Path, download: bool) -> Arrays:
    """Zalando's 70,000 articles of clothing, 28x28 (arXiv:1708.07747)."""
    return _torchvision_set("fashion-mnist", "FashionMNIST", root, download)


@source("kmnist")
def kmnist(root: Path, download: bool) -> Arrays:
    """Kuzushiji-MNIST, 70,000 cursive Japanese characters, 28x28 (arXiv:1812.01718)."""
    return _torchvision_set("kmnist", "KMNIST", root, download)


def load_npz(path: Path) -> Arrays:
    """Images or features of the user's own: ``train_x, train_y, test_x, test_y`` in one file.

    Files that hold pickled objects are refused: loading them could run code.
    """
    if not path.is_file():
        raise MissingDataError(f"there is no file {str(path.absolute())!r}: check the path.")
    try:
        # Opened here: NumPy leaves the file open when it cannot read it.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [key for key in NPZ_KEYS if key not in archive]
            if missing:
                raise InputError(
                    f"{path} lacks {missing}: it needs {list(NPZ_KEYS)} and holds {archive.files}."
                )
            arrays = [archive[key] for key in NPZ_KEYS]
    except InputError:
        raise
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} cannot be read as plain arrays ({error}): write it with numpy.savez, "
            "without pickled objects."
        ) from error
    return Arrays.checked(*arrays)


def _torchvision_set(stream: str, class_name: str, root: Path, download: bool) -> Arrays:
    import torchvision.datasets as sets  # slow to import; digits and .npz do without

    kind: Any = getattr(sets, class_name)
    folder = root / class_name / "raw"
    expected = [Path(file).stem for file, _ in kind.resources]
    missing = [file for file in expected if not (folder / file).is_file()]
    if missing and not download:
        raise MissingDataError(
            f"stream {stream!r} is not in {str(folder.absolute())!r} (missing: "
            f"{', '.join(missing)}). Fetch it with `continual-ep run --stream {stream} "
            f"--root {root} --download`, or name the folder that has it (root, --root)."
        )
    try:
        train = kind(str(root), train=True, download=bool(missing))
        test = kind(str(root), train=False, download=False)
    except Exception as error:  # torchvision raises whatever its parser or urllib met
        if missing:
            raise MissingDataError(
                f"stream {stream!r} could not be fetched into {str(folder.absolute())!r}: {error}"
            ) from error
        raise InputError(
            f"the files of stream {stream!r} in {str(folder.absolute())!r} are damaged ({error}): "
            "delete them and fetch them again with --download."
        ) from error
    names = [str(name) for name in kind.classes]
    return Arrays.checked(
        train.data.numpy(), train.targets.numpy(), test.data.numpy(), test.targets.numpy(), names
    )
