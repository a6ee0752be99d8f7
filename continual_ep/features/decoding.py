"""Decode image files in parallel, in their order, with a bounded number of images ahead."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from continual_ep.errors import InputError
from continual_ep.features.files import FileList
from continual_ep.features.preprocessing import Preprocessing

#: Images per thread that may be decoded ahead; it bounds the memory of the queue.
AHEAD = 16


def decoded(
    files: FileList,
    preprocessing: Preprocessing,
    *,
    start: int = 0,
    workers: int = 2,
    on_corrupt: str = "raise",
) -> Iterator[Tensor | None]:
    """Yield the images from number ``start`` on, each ``(3, crop, crop)`` uint8.

    Threads are enough: Pillow releases Python's lock while it decodes and resizes.

    :param workers: threads.
    :param on_corrupt: ``"raise"``, or ``"skip"``, which gives None for what cannot be decoded.
    :raises InputError: an image that cannot be decoded, with its path.
    """
    waiting: deque[tuple[int, Future[Tensor]]] = deque()
    following = start
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as threads:
        try:
            while following < len(files) or waiting:
                while following < len(files) and len(waiting) < workers * AHEAD:
                    task = threads.submit(_decode, files.path(following), preprocessing)
                    waiting.append((following, task))
                    following += 1
                number, task = waiting.popleft()
                try:
                    image = task.result()
                except CORRUPT as error:
                    if on_corrupt == "raise":
                        raise InputError(corrupt(files.path(number), error)) from error
                    yield None
                else:
                    yield image
        finally:
            for _, task in waiting:
                task.cancel()


#: What Pillow raises for damaged files. UnidentifiedImageError is an OSError.
CORRUPT = (OSError, SyntaxError, ValueError, EOFError)


def corrupt(path: Path, reason: object) -> str:
    """The error message for an image that cannot be decoded."""
    return (
        f"the image {str(path)!r} cannot be decoded ({reason}): repair or remove it, or leave such "
        "images out with on_corrupt='skip', which lists them."
    )


def _decode(path: Path, preprocessing: Preprocessing) -> Tensor:
    from PIL import Image

    with Image.open(path) as image:
        return preprocessing.framed(image)
