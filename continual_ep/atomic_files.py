"""Files that are whole or not there: written beside their place, then renamed into it."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """A reader, or a run killed at any moment, finds the old content or the new one, never a part.

    :param write: writes the content to the binary stream it is given.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the new name itself must survive a loss of power, too
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """The same for text."""
    write_atomically(path, lambda stream: stream.write(text.encode()))


def write_json(path: Path, values: Any) -> None:
    """The same for JSON; NaN is null, since JSON has no NaN."""
    write_text(path, json.dumps(_without_nan(values), indent=1, allow_nan=False) + "\n")


def _without_nan(values: Any) -> Any:
    if isinstance(values, dict):
        return {str(key): _without_nan(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_without_nan(value) for value in values]
    if isinstance(values, float) and values != values:
        return None
    return values


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """The same for a table."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
