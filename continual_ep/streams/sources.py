"""The registry of data sets: one small function for each.

A new stream is one function ``(root, download) -> Arrays`` (or ``-> ImageFiles``, for images that
stay on disk) under ``@source("its-name")``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union

from continual_ep.errors import ConfigurationError
from continual_ep.streams.arrays import Arrays

if TYPE_CHECKING:
    from continual_ep.streams.files import ImageFiles

Load = Callable[[Path, bool], Union[Arrays, "ImageFiles"]]

DEFAULT_ROOT = Path("data")

#: Streams that name a place on disk: what comes before the colon, and what it means.
PLACES = {"arrays": "an .npz file", "image-folder": "a folder of images, one folder per class"}


@dataclass(frozen=True)
class Source:
    """A named data set.

    :param load: reads it, ``(root, download) -> Arrays | ImageFiles``.
    :param classes, shape, samples: number of classes; ``(height, width)`` or ``(channels, height,
        width)`` of an image, None where sizes differ; training and test samples. None if unknown.
    :param licence: what its authors permit, in short.
    :param files: what has to be in the root folder, relative to it.
    """

    name: str
    load: Load
    title: str
    classes: int | None = None
    shape: tuple[int, ...] | None = None
    samples: tuple[int, int] | None = None
    licence: str = ""
    files: tuple[str, ...] = ()

    def is_on_disk(self, root: Path) -> bool:
        """Whether all of its files are there (not whether they are sound)."""
        return all((root / file).exists() for file in self.files)


SOURCES: dict[str, Source] = {}


def source(
    name: str,
    *,
    classes: int | None = None,
    shape: tuple[int, ...] | None = None,
    samples: tuple[int, int] | None = None,
    licence: str = "",
    files: Sequence[str] = (),
) -> Callable[[Load], Load]:
    """Register a function ``(root, download) -> Arrays | ImageFiles`` under the stream's name.

    The first line of its docstring is the stream's title; for the rest see :class:`Source`.
    """

    def register(load: Load) -> Load:
        title = (load.__doc__ or name).strip().splitlines()[0]
        SOURCES[name] = Source(name, load, title, classes, shape, samples, licence, tuple(files))
        return load

    return register


def load_source(
    name: str | Path, root: str | Path | None = None, download: bool = False
) -> "Arrays | ImageFiles":
    """A named set, an array file or a folder of images.

    :param name: a key of :data:`SOURCES`, ``arrays:PATH.npz`` (or just the path), or
        ``image-folder:PATH``.
    :param root: folder of the named sets; ``data`` when None.
    :param download: fetch a missing set; nothing is downloaded without it.
    :raises ConfigurationError: an unknown name.
    :raises MissingDataError: a set or file that is not on disk.
    :raises InputError: a file that is damaged or holds unusable arrays.
    """
    kind, path = place_of(name)
    if kind is None:
        return SOURCES[str(name)].load(DEFAULT_ROOT if root is None else Path(root), download)
    # The readers of files are imported by those who read files.
    if kind == "arrays":
        from continual_ep.streams.npz import load_npz

        return load_npz(path)
    from continual_ep.streams.files import scan_image_folder

    return scan_image_folder(path)


def place_of(name: str | Path) -> tuple[str | None, Path]:
    """The kind of place that a stream names and its path; kind None for a named set.

    :raises ConfigurationError: an unknown name.
    """
    text = str(name)
    kind, colon, path = text.partition(":")
    if text in SOURCES:
        return None, Path()
    if colon and kind in PLACES and path:
        return kind, Path(path)
    if text.endswith(".npz"):
        return "arrays", Path(text)
    places = ", ".join(f"{kind}:PATH ({what})" for kind, what in PLACES.items())
    raise ConfigurationError(
        f"stream {text!r} is unknown: use {', '.join(SOURCES)}, or name a place: {places}."
    )
