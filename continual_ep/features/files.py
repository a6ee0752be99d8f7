"""Lists of image files."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class FileList:
    """Image files with their labels. The list of ImageNet's 1.2 million takes some 70 MB.

    :param folder: where all paths start.
    :param names: ``(n,)`` their paths below it, as bytes of the file system's encoding.
    :param labels: ``(n,)`` int64.
    """

    folder: Path
    names: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """Where the image at ``index`` lies."""
        return self.folder / os.fsdecode(bytes(self.names[index]))

    def selected(self, classes: Sequence[int]) -> "FileList":
        """Only the files of ``classes``, which become ``0, 1, ...`` in the order given."""
        new = np.full(int(self.labels.max()) + 1, -1, dtype=np.int64)
        new[list(classes)] = np.arange(len(classes))
        labels = new[self.labels]
        kept = labels >= 0
        return FileList(self.folder, self.names[kept], labels[kept])

    def fingerprint(self) -> str:
        """Hash all names, sizes and modification times, in order; images are not read.

        :raises FileNotFoundError: if a file has gone since the folder was scanned.
        """
        digest = hashlib.sha256()
        for name in self.names.tolist():
            status = os.stat(os.path.join(os.fsencode(self.folder), name))
            digest.update(b"%s\0%d %d\n" % (name, status.st_size, status.st_mtime_ns))
        return digest.hexdigest()
