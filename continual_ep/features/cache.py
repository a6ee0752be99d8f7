"""Arrays on disk: written in pieces by a resumable writer, complete or absent, read by memory mapping."""

import errno
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from continual_ep.atomic_files import write_json
from continual_ep.errors import ConfigurationError, ContinualEPError, InputError

CARD = "card.json"
FORMAT = 1

#: Names of types in safetensors files.
TYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "U8": np.dtype("u1")}

#: Key of the progress in a note; notes of version 0.1 have this name.
PROGRESS = "told"

#: Bytes of the header, padded with blanks so that the number of rows can be rewritten in place.
HEADER = 512

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EROFS, errno.EPERM)


def key_of(identity: dict[str, Any]) -> str:
    """A hash of the identity, for the name of an entry's folder; its card holds the whole identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def finished(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The card of a complete entry, or None.

    :raises ContinualEPError: a card that cannot be read or belongs to something else.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        same = card["identity"] == json.loads(json.dumps(identity))
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ContinualEPError(
            f"the card {str(path)!r} is damaged ({error!r}): delete its folder to compute it anew."
        ) from error
    if not same:
        raise ContinualEPError(f"the cache {str(folder)!r} belongs to other data: delete it.")
    complete_card: dict[str, Any] = card
    return complete_card


def complete(folder: Path, card: dict[str, Any]) -> None:
    """Write the card. It is written last and marks the entry as complete."""
    write_json(folder / CARD, {"format": FORMAT, **card})


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Lock an entry: a second process waits here until the first has finished or died.

    :raises ConfigurationError: a folder that cannot be written.
    :raises ContinualEPError: a full disk; what has been computed is kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError as error:
        raise _explained(folder, error) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it with the process
        try:
            yield
        except OSError as error:
            if error.errno in (*FULL, *FORBIDDEN):
                raise _explained(folder, error) from error
            raise


def _explained(folder: Path, error: OSError) -> ContinualEPError:
    """The error with its remedy: a full disk, or a folder that cannot be written."""
    if error.errno in FULL:
        return ContinualEPError(
            f"no space for the features in {str(folder.absolute())!r} ({error.strerror}): free some, or "
            "name another cache folder. What has been computed is kept, and the same command goes on "
            "from there."
        )
    return ConfigurationError(
        f"the cache folder {str(folder.parent.absolute())!r} cannot be written ({error.strerror}): name "
        "another (cache, --cache)."
    )


class RowFile:
    """A safetensors file of one tensor ``x``, written in blocks of rows.

    Until :meth:`finish` its name ends in ``.part``, and a note beside it records the progress. Space for
    all rows is allocated at the start, so that a full disk is known at once. Rows are written by
    ``pwrite`` and not through a memory map, where a full disk kills the process instead of raising.

    :param rows: the largest number of rows.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows = path, rows
        self.part = path.with_name(path.name + ".part")
        self.note = path.with_name(path.name + ".note.json")
        self._sample: tuple[int, ...] = ()
        self._type = ""
        self._file: int | None = None
        # One tuple, so that an interrupt cannot come between the two assignments.
        self._state: tuple[int, Any] = (0, None)

    @property
    def written(self) -> int:
        """Number of rows written."""
        return self._state[0]

    @property
    def progress(self) -> Any:
        """The progress given to the last :meth:`append`, in this or an earlier process; None if none."""
        return self._state[1]

    def resume(self) -> None:
        """Continue the file of an interrupted process, if there is one."""
        if not self.part.is_file() or not self.note.is_file():
            return
        note: dict[str, Any] = json.loads(self.note.read_text(encoding="utf-8"))
        self._type, self._sample = note["type"], tuple(note["sample"])
        self._state = (note["written"], note[PROGRESS])
        self._file = os.open(self.part, os.O_RDWR)

    def append(self, rows: np.ndarray, progress: Any) -> None:
        """Write rows.

        :param rows: ``(n, *sample)`` float16 or uint8.
        :param progress: plain values that :meth:`save` stores with the number of rows.
        """
        if self._file is None:
            self._begin(rows)
        elif rows.shape[1:] != self._sample:
            raise InputError(f"rows of shape {rows.shape[1:]} follow rows of {self._sample}.")
        assert self._file is not None
        _write(self._file, rows.tobytes(), HEADER + self.written * self._row_bytes())
        self._state = (self.written + len(rows), progress)

    def save(self) -> None:
        """Make all appended rows survive a kill of the process or a loss of power."""
        if self._file is None:
            return
        written, progress = self._state
        os.fsync(self._file)
        note = {"written": written, "type": self._type, "sample": self._sample, PROGRESS: progress}
        write_json(self.note, note)

    def finish(self) -> None:
        """Give the file its final size and name."""
        assert self._file is not None
        os.ftruncate(self._file, HEADER + self.written * self._row_bytes())
        self._write_header(self.written)
        os.fsync(self._file)
        self.close()
        os.replace(self.part, self.path)
        self.note.unlink(missing_ok=True)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _row_bytes(self) -> int:
        return TYPES[self._type].itemsize * math.prod(self._sample)

    def _begin(self, rows: np.ndarray) -> None:
        self._sample = rows.shape[1:]
        self._type = next(name for name, dtype in TYPES.items() if dtype == rows.dtype)
        self._file = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._write_header(self.rows)
        os.posix_fallocate(self._file, 0, HEADER + self.rows * self._row_bytes())

    def _write_header(self, rows: int) -> None:
        assert self._file is not None
        end = rows * self._row_bytes()
        entry = {"dtype": self._type, "shape": [rows, *self._sample], "data_offsets": [0, end]}
        text = json.dumps({"x": entry}).encode().ljust(HEADER - 8)
        _write(self._file, len(text).to_bytes(8, "little") + text, 0)


def _write(file: int, content: bytes, at: int) -> None:
    view = memoryview(content)
    while len(view):
        count = os.pwrite(file, view, at)  # may write less than asked
        view, at = view[count:], at + count


def rows_of(path: Path) -> np.memmap:
    """Map the tensor ``x`` of a finished file.

    :raises ContinualEPError: a file that is missing, cut short or no safetensors file.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            entry = json.loads(stream.read(min(length, 1 << 20)))["x"]
        size = os.path.getsize(path)
        if size != 8 + length + entry["data_offsets"][1]:
            raise ValueError(f"it has {size} bytes")
        return np.memmap(path, TYPES[entry["dtype"]], "r", 8 + length, tuple(entry["shape"]))
    except (OSError, ValueError, KeyError) as error:
        raise ContinualEPError(
            f"the cached features {str(path)!r} are damaged ({error}): delete their folder to compute "
            "them anew."
        ) from error
