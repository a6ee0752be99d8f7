"""Folders of images in the layouts that people keep them in."""

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from continual_ep.errors import InputError, MissingDataError
from continual_ep.features.files import FileList

#: What Pillow decodes, as torchvision lists it.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

TEST_FOLDERS = ("val", "test")


@dataclass(frozen=True)
class ImageFiles:
    """A data set of image files, as :class:`~continual_ep.streams.Arrays` is one of arrays.

    :param class_names: one name per label.
    :param label_values: the label that the source had for each of ours.
    """

    train: FileList
    test: FileList
    class_names: tuple[str, ...]
    label_values: tuple[int, ...]

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    def selected(self, classes: Sequence[int]) -> "ImageFiles":
        """Only the images of ``classes``, which become ``0, 1, ...`` in the order given."""
        return ImageFiles(
            self.train.selected(classes),
            self.test.selected(classes),
            tuple(self.class_names[label] for label in classes),
            tuple(self.label_values[label] for label in classes),
        )


def scan_image_folder(folder: Path) -> ImageFiles:
    """``train/CLASS/...`` and ``val/CLASS/...`` (or ``test``) below a folder.

    :raises MissingDataError: no such folders.
    :raises InputError: a class without images, or one that only one of the two has.
    """
    test = next((folder / name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    if not (folder / "train").is_dir() or test is None:
        raise MissingDataError(
            f"{str(folder.absolute())!r} is no folder of images: train/CLASS/*.jpg and "
            "val/CLASS/*.jpg (or test/CLASS) are expected in it."
        )
    names = _class_folders(folder / "train")
    unseen = sorted(set(_class_folders(test)) - set(names))
    if unseen:
        raise InputError(
            f"{str(test)!r} has classes {unseen[:5]} that {str(folder / 'train')!r} lacks."
        )
    return _checked(_listed(folder / "train", names), _listed(test, names), names, {})


def scan_imagenet(folder: Path) -> ImageFiles:
    """ILSVRC-2012: ``train/WNID``, and ``val/WNID`` or a flat ``val`` with ``LOC_val_solution.csv``.

    Classes are named by wnid, and by word where ``LOC_synset_mapping.txt`` is there.

    :raises MissingDataError: folders that are not there. :raises InputError: as for a folder of images.
    """
    _need(folder, ("train", "val"), "imagenet")
    names = _class_folders(folder / "train")
    if _class_folders(folder / "val", expected=False):
        test = _listed(folder / "val", names)
    else:
        solution = folder / "LOC_val_solution.csv"
        if not solution.is_file():
            raise MissingDataError(
                f"{str(folder / 'val')!r} holds no folders of classes: sort the images into val/WNID, "
                f"or put {solution.name} (of Kaggle's edition) beside it."
            )
        with solution.open(newline="", encoding="utf-8") as table:
            rows = [
                (row["ImageId"], row["PredictionString"].split()[0])
                for row in csv.DictReader(table)
            ]
        test = _flat(folder / "val", [(f"{image}.JPEG", wnid) for image, wnid in rows], names)
    return _checked(
        _listed(folder / "train", names),
        test,
        names,
        _words(folder / "LOC_synset_mapping.txt", " "),
    )


def scan_tiny_imagenet(folder: Path) -> ImageFiles:
    """Tiny ImageNet: ``train/WNID/images``, ``val/images`` with ``val_annotations.txt``.

    :raises MissingDataError: folders that are not there. :raises InputError: as for a folder of images.
    """
    _need(folder, ("train", "val", "wnids.txt"), "tiny-imagenet")
    names = sorted((folder / "wnids.txt").read_text(encoding="utf-8").split())
    annotations = folder / "val" / "val_annotations.txt"
    if annotations.is_file():
        lines = annotations.read_text(encoding="utf-8").splitlines()
        rows = [
            (f"images/{image}", wnid) for image, wnid in (line.split("\t")[:2] for line in lines)
        ]
        test = _flat(folder / "val", rows, names)
    else:
        test = _listed(folder / "val", names)
    return _checked(
        _listed(folder / "train", names), test, names, _words(folder / "words.txt", "\t")
    )


def _need(folder: Path, parts: Sequence[str], stream: str) -> None:
    missing = [part for part in parts if not (folder / part).exists()]
    if missing:
        raise MissingDataError(
            f"stream {stream!r} is not in {str(folder.absolute())!r} (missing: {', '.join(missing)}). "
            "It has to be fetched by hand, under its terms, and unpacked there; or name the folder "
            "above (root, --root)."
        )


def _class_folders(folder: Path, expected: bool = True) -> list[str]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and entry.name[0] != ".")
    if expected and not names:
        raise InputError(f"{str(folder)!r} holds no folders, one for each class.")
    return names


def _listed(folder: Path, names: Sequence[str]) -> FileList:
    """All images below ``folder/CLASS``, sorted within each class."""
    paths: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        images = sorted(_images_in(folder, name)) if (folder / name).is_dir() else []
        paths += [os.fsencode(path) for path in images]
        labels += [label] * len(images)
    return FileList(folder, np.array(paths, dtype=np.bytes_), np.array(labels, dtype=np.int64))


def _images_in(folder: Path, below: str) -> Iterator[str]:
    with os.scandir(folder / below) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _images_in(folder, f"{below}/{entry.name}")
            elif entry.name.lower().endswith(ENDINGS) and entry.name[0] != ".":
                yield f"{below}/{entry.name}"


def _flat(folder: Path, rows: Sequence[tuple[str, str]], names: Sequence[str]) -> FileList:
    """Images whose classes stand in a table."""
    labels = {name: label for label, name in enumerate(names)}
    unknown = sorted({wnid for _, wnid in rows} - set(labels))
    if unknown:
        raise InputError(
            f"the images of {str(folder)!r} are of classes without training: {unknown[:5]}."
        )
    rows = sorted(rows, key=lambda row: (labels[row[1]], row[0]))
    paths = np.array([os.fsencode(path) for path, _ in rows], dtype=np.bytes_)
    targets = np.array([labels[wnid] for _, wnid in rows], dtype=np.int64)
    return FileList(folder, paths, targets)


def _words(path: Path, separator: str) -> dict[str, str]:
    """The first word for each wnid, if the list is there."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(separator) for line in lines if separator in line)
    return {wnid: words.split(",")[0].strip() for wnid, _, words in pairs}


def _checked(
    train: FileList, test: FileList, names: Sequence[str], words: dict[str, str]
) -> ImageFiles:
    for split in (train, test):
        counts = np.bincount(split.labels, minlength=len(names))
        empty = [names[label] for label in np.flatnonzero(counts == 0).tolist()]
        if empty:
            raise InputError(
                f"{str(split.folder)!r} holds no image ({', '.join(ENDINGS)}) of classes {empty[:5]} "
                f"({len(empty)} of {len(names)})."
            )
    full = tuple(f"{name} {words[name]}" if name in words else name for name in names)
    return ImageFiles(train, test, full, tuple(range(len(names))))
