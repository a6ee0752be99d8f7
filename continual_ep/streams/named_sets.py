"""The named data sets. Each is one small function; torchvision reads the files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from continual_ep.errors import InputError, MissingDataError
from continual_ep.streams.arrays import Arrays
from continual_ep.streams.selection import named_generator
from continual_ep.streams.sources import SOURCES, source

if TYPE_CHECKING:
    from continual_ep.streams.files import ImageFiles

IDX = tuple(
    f"{s}-{what}-ubyte" for s in ("train", "t10k") for what in ("images-idx3", "labels-idx1")
)
EMNIST_IDX = tuple(
    f"emnist-letters-{s}-{what}-ubyte"
    for s in ("train", "test")
    for what in ("images-idx3", "labels-idx1")
)
CIFAR10_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")


def _in_folder(folder: str, files: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{folder}/{file}" for file in files)


@source(
    "digits",
    classes=10,
    shape=(8, 8),
    samples=(1438, 359),
    licence="BSD-3-Clause (comes with scikit-learn)",
)
def digits(root: Path, download: bool) -> Arrays:
    """scikit-learn's handwritten digits.

    A fifth of each class is the test; the split is the same on every machine and for every seed.
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


@source(
    "mnist",
    classes=10,
    shape=(28, 28),
    samples=(60_000, 10_000),
    licence="none stated by its authors (LeCun, Cortes, Burges)",
    files=_in_folder("MNIST/raw", IDX),
)
def mnist(root: Path, download: bool) -> Arrays:
    """MNIST, handwritten digits."""
    return _torchvision_arrays("mnist", "MNIST", root, download)


@source(
    "fashion-mnist",
    classes=10,
    shape=(28, 28),
    samples=(60_000, 10_000),
    licence="MIT",
    files=_in_folder("FashionMNIST/raw", IDX),
)
def fashion_mnist(root: Path, download: bool) -> Arrays:
    """Fashion-MNIST, articles of clothing (arXiv:1708.07747)."""
    return _torchvision_arrays("fashion-mnist", "FashionMNIST", root, download)


@source(
    "kmnist",
    classes=10,
    shape=(28, 28),
    samples=(60_000, 10_000),
    licence="CC BY-SA 4.0",
    files=_in_folder("KMNIST/raw", IDX),
)
def kmnist(root: Path, download: bool) -> Arrays:
    """Kuzushiji-MNIST, cursive Japanese characters (arXiv:1812.01718)."""
    return _torchvision_arrays("kmnist", "KMNIST", root, download)


@source(
    "emnist-letters",
    classes=26,
    shape=(28, 28),
    samples=(124_800, 20_800),
    licence="public domain (NIST Special Database 19)",
    files=_in_folder("EMNIST/raw", EMNIST_IDX),
)
def emnist_letters(root: Path, download: bool) -> Arrays:
    """EMNIST letters, upper and lower case together (arXiv:1702.05373).

    The files hold the images with rows and columns exchanged and labels from 1; both are put right.
    """
    train, test = _torchvision_pair("emnist-letters", "EMNIST", root, download, split="letters")
    names = [chr(ord("a") + letter) for letter in range(26)]
    return Arrays.checked(
        train.data.numpy().transpose(0, 2, 1),
        train.targets.numpy() - 1,
        test.data.numpy().transpose(0, 2, 1),
        test.targets.numpy() - 1,
        names,
    )


@source(
    "svhn",
    classes=10,
    shape=(3, 32, 32),
    samples=(73_257, 26_032),
    licence="non-commercial use",
    files=("train_32x32.mat", "test_32x32.mat"),
)
def svhn(root: Path, download: bool) -> Arrays:
    """SVHN, house numbers from street views, cropped digits."""
    train = _torchvision_set("svhn", "SVHN", root, download, split="train")
    test = _torchvision_set("svhn", "SVHN", root, download, split="test")
    names = [str(digit) for digit in range(10)]
    return Arrays.checked(train.data, train.labels, test.data, test.labels, names)


@source(
    "cifar10",
    classes=10,
    shape=(3, 32, 32),
    samples=(50_000, 10_000),
    licence="none stated by its authors (Krizhevsky)",
    files=_in_folder("cifar-10-batches-py", CIFAR10_FILES),
)
def cifar10(root: Path, download: bool) -> Arrays:
    """CIFAR-10, small photographs.

    torchvision unpickles its files only after their published md5 sums have been verified.
    """
    return _torchvision_arrays("cifar10", "CIFAR10", root, download)


@source(
    "cifar100",
    classes=100,
    shape=(3, 32, 32),
    samples=(50_000, 10_000),
    licence="none stated by its authors (Krizhevsky)",
    files=_in_folder("cifar-100-python", ("train", "test", "meta")),
)
def cifar100(root: Path, download: bool) -> Arrays:
    """CIFAR-100, small photographs of a hundred kinds."""
    return _torchvision_arrays("cifar100", "CIFAR100", root, download)


@source(
    "tiny-imagenet",
    classes=200,
    shape=(3, 64, 64),
    samples=(100_000, 10_000),
    licence="ImageNet's terms: non-commercial research",
    files=_in_folder("tiny-imagenet-200", ("train", "val", "wnids.txt")),
)
def tiny_imagenet(root: Path, download: bool) -> "ImageFiles":
    """Tiny ImageNet, 200 classes of ImageNet at 64 pixels, in its published layout."""
    from continual_ep.streams.files import scan_tiny_imagenet

    _refuse_download("tiny-imagenet", download, root / "tiny-imagenet-200")
    return scan_tiny_imagenet(root / "tiny-imagenet-200")


@source(
    "imagenet",
    classes=1000,
    samples=(1_281_167, 50_000),
    licence="non-commercial research, after registration at image-net.org",
    files=_in_folder("imagenet", ("train", "val")),
)
def imagenet(root: Path, download: bool) -> "ImageFiles":
    """ImageNet (ILSVRC-2012), photographs of a thousand kinds."""
    from continual_ep.streams.files import scan_imagenet

    _refuse_download("imagenet", download, root / "imagenet")
    return scan_imagenet(root / "imagenet")


def _refuse_download(stream: str, download: bool, folder: Path) -> None:
    if download and not folder.is_dir():
        raise MissingDataError(
            f"stream {stream!r} has to be fetched by hand, under its terms, and unpacked as "
            f"{str(folder.absolute())!r}."
        )


def _torchvision_arrays(stream: str, class_name: str, root: Path, download: bool) -> Arrays:
    train, test = _torchvision_pair(stream, class_name, root, download)
    train_x, train_y, test_x, test_y = (
        np.asarray(part) for split in (train, test) for part in (split.data, split.targets)
    )
    names = [str(name) for name in train.classes]
    return Arrays.checked(train_x, train_y, test_x, test_y, names)


def _torchvision_pair(
    stream: str, class_name: str, root: Path, download: bool, **options: Any
) -> tuple[Any, Any]:
    train = _torchvision_set(stream, class_name, root, download, train=True, **options)
    return train, _torchvision_set(stream, class_name, root, download, train=False, **options)


def _torchvision_set(
    stream: str, class_name: str, root: Path, download: bool, **options: Any
) -> Any:
    import torchvision.datasets as sets  # slow to import; digits and .npz do without

    missing = [file for file in SOURCES[stream].files if not (root / file).exists()]
    if missing and not download:
        packed = [file for file in missing if (root / f"{file}.gz").is_file()]
        unpack = (
            f" Some are there packed: `gunzip --keep {root / packed[0]}.gz` and so on."
            if packed
            else ""
        )
        raise MissingDataError(
            f"stream {stream!r} is not in {str(root.absolute())!r} (missing: {', '.join(missing)})."
            f"{unpack} Fetch it with `continual-ep run --stream {stream} --root {root} --download`, "
            "or name the folder that has it (root, --root)."
        )
    try:
        return getattr(sets, class_name)(str(root), download=bool(missing), **options)
    except Exception as error:  # torchvision raises whatever its parser or urllib met
        if missing:
            raise MissingDataError(
                f"stream {stream!r} could not be fetched into {str(root.absolute())!r}: {error}"
            ) from error
        raise InputError(
            f"the files of stream {stream!r} in {str(root.absolute())!r} are damaged ({error}): "
            "delete them and fetch them again with --download."
        ) from error
