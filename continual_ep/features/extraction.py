"""Compute the features of all images of a data set once and keep them on disk."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from continual_ep.atomic_files import write_json
from continual_ep.errors import InputError, warn_user
from continual_ep.features.backbones import Backbone
from continual_ep.features.cache import RowFile, complete, finished, key_of, rows_of, writing
from continual_ep.features.decoding import corrupt, decoded
from continual_ep.features.files import FileList
from continual_ep.features.options import Images
from continual_ep.features.preprocessing import Preprocessing
from continual_ep.progress import show_progress

#: Seconds between two notes of the progress; a kill loses what was computed after the last note.
NOTE_EVERY = 5.0


@dataclass(frozen=True)
class Extracted:
    """Rows of a split.

    :param x: ``(n, ...)``, memory-mapped.
    :param kept: ``(n,)`` the number of each row's image.
    :param skipped: paths of the images that cannot be decoded.
    """

    x: np.ndarray
    kept: np.ndarray
    skipped: list[str] = field(default_factory=list)


class Encoder(Protocol):
    """Turns framed images into rows: a backbone's features, or the pixels."""

    @property
    def preprocessing(self) -> Preprocessing: ...

    def identity(self) -> dict[str, Any]: ...

    def rows(self, images: Tensor, options: Images) -> np.ndarray: ...


@dataclass(frozen=True)
class Pixels:
    """The images themselves, ``(n, 3, size, size)`` uint8."""

    preprocessing: Preprocessing

    def identity(self) -> dict[str, Any]:
        framing = asdict(self.preprocessing)
        return {"pixels": {name: framing[name] for name in ("resize", "crop", "interpolation")}}

    def rows(self, images: Tensor, options: Images) -> np.ndarray:
        return images.numpy()


@dataclass(frozen=True)
class Features:
    """What a backbone makes of them, ``(n, d)`` float16."""

    backbone: Backbone
    amp: bool

    @property
    def preprocessing(self) -> Preprocessing:
        return self.backbone.preprocessing

    def identity(self) -> dict[str, Any]:
        return {**self.backbone.identity(), "amp": self.amp}

    def rows(self, images: Tensor, options: Images) -> np.ndarray:
        device = torch.device(options.computing_device)
        moved = images.to(device, non_blocking=True)
        x = moved.float().div_(255) if moved.dtype == torch.uint8 else moved
        with torch.autocast(device.type) if self.amp else nullcontext():
            features = self.backbone.features(x.contiguous(memory_format=torch.channels_last))
        half = features.to(torch.float16).cpu()
        if not bool(torch.isfinite(half).all()):
            raise InputError(
                f"backbone {self.backbone.name!r} returned values that float16 cannot hold (NaN, or "
                f"beyond 65504; the largest is {float(features.abs().max()):.3g})."
            )
        return half.numpy()


def extract(
    splits: dict[str, FileList | np.ndarray],
    encoder: Encoder,
    options: Images,
) -> dict[str, Extracted]:
    """Read the rows of each split from the cache, or compute them.

    After a kill the same call continues where it stopped. Of two processes that need the same entry the
    second waits and reads what the first has computed. The key of an entry is made of data, backbone,
    weights, preprocessing and precision; a JSON file, the card, holds them.

    :param splits: by name: image files, or arrays ``(n, h, w)`` or ``(n, c, h, w)``, bytes or in [0, 1].
    :raises InputError: images that cannot be decoded (unless they are skipped), or used.
    :raises ConfigurationError: a cache folder that cannot be written.
    """
    identity = {
        "data": {name: _fingerprint(images) for name, images in splits.items()},
        **encoder.identity(),
    }
    name = str(identity.get("backbone", "pixels")).replace("/", "_").replace(":", "_")
    folder = Path(options.cache) / f"{name}-{key_of(identity)}"
    card = finished(folder, identity)
    if card is None:
        with writing(folder):
            card = finished(folder, identity)  # completed by another process while this one waited
            if card is None:
                card = _compute(splits, encoder, options, folder, identity)
    parts = {name: _read(folder, name, card) for name in splits}
    _report_skipped(parts, folder, options.on_corrupt)
    return parts


def _compute(
    splits: dict[str, FileList | np.ndarray],
    encoder: Encoder,
    options: Images,
    folder: Path,
    identity: dict[str, Any],
) -> dict[str, Any]:
    if isinstance(encoder, Features):
        encoder = Features(encoder.backbone.to(options.computing_device), encoder.amp)
    started = time.perf_counter()
    parts = {
        name: _split(name, images, encoder, options, folder) for name, images in splits.items()
    }
    card = {
        "identity": identity,
        "splits": parts,
        "seconds": time.perf_counter() - started,
        "device": options.computing_device,
        "versions": {name: version(name) for name in ("torch", "torchvision", "pillow")},
    }
    complete(folder, card)
    return card


def _split(
    name: str,
    images: FileList | np.ndarray,
    encoder: Encoder,
    options: Images,
    folder: Path,
) -> dict[str, Any]:
    """Compute the rows of one split, from where an earlier call stopped.

    :returns: the number of images and the skipped ones, for the card.
    """
    path = folder / f"{name}.safetensors"
    done = folder / f"{name}.done.json"
    if path.is_file() and done.is_file():
        finished_part: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return finished_part
    rows = RowFile(path, len(images))
    try:
        rows.resume()
        progress = _append_all(rows, name, images, encoder, options)
        if not rows.written:
            raise InputError(f"none of the {len(images)} images of {name!r} can be decoded.")
        write_json(done, progress)
        rows.finish()
        return progress
    except BaseException:
        rows.save()  # whatever the reason, keep the rows that are written
        raise
    finally:
        rows.close()


def _append_all(
    rows: RowFile,
    name: str,
    images: FileList | np.ndarray,
    encoder: Encoder,
    options: Images,
) -> dict[str, Any]:
    progress: dict[str, Any] = rows.progress or {"images": 0, "skipped": []}
    noted = time.monotonic()
    label = f"features of {name}"
    with show_progress(label, "images", len(images), progress["images"]) as show:
        start = progress["images"]
        for batch, skipped in _batches(images, encoder.preprocessing, options, start):
            at = progress["images"]
            more = [[at + number, path] for number, path in skipped]
            progress = {
                "images": at + len(batch) + len(skipped),
                "skipped": [*progress["skipped"], *more],
            }
            if len(batch):
                rows.append(encoder.rows(batch, options), progress)
            show(progress["images"])
            if time.monotonic() - noted >= NOTE_EVERY:
                rows.save()
                noted = time.monotonic()
    return progress


def _batches(
    images: FileList | np.ndarray, preprocessing: Preprocessing, options: Images, start: int
) -> Iterator[tuple[Tensor, list[tuple[int, str]]]]:
    """Yield batches of framed images, with the number in the batch and the path of skipped ones."""
    if isinstance(images, FileList):
        yield from _batches_of_files(images, preprocessing, options, start)
        return
    divisor = 255.0 if images.dtype == np.uint8 else 1.0
    for at in range(start, len(images), options.batch_size):
        stored = torch.from_numpy(images[at : at + options.batch_size].astype(np.float32))
        yield preprocessing.framed_batch(stored.to(options.computing_device) / divisor), []


def _batches_of_files(
    files: FileList, preprocessing: Preprocessing, options: Images, start: int
) -> Iterator[tuple[Tensor, list[tuple[int, str]]]]:
    stream = decoded(
        files,
        preprocessing,
        start=start,
        workers=options.workers,
        on_corrupt=options.on_corrupt,
    )
    side = preprocessing.crop
    for at in range(start, len(files), options.batch_size):
        count = min(options.batch_size, len(files) - at)
        decoded_images = [next(stream) for _ in range(count)]
        skipped = [
            (n, str(files.path(at + n))) for n, image in enumerate(decoded_images) if image is None
        ]
        good = [image for image in decoded_images if image is not None]
        empty = torch.empty(0, 3, side, side, dtype=torch.uint8)
        yield (torch.stack(good) if good else empty), skipped


def _fingerprint(images: FileList | np.ndarray) -> str:
    if isinstance(images, FileList):
        return images.fingerprint()
    digest = hashlib.sha256(f"{images.dtype} {images.shape}".encode())
    for start in range(0, len(images), 4096):
        digest.update(images[start : start + 4096].tobytes())
    return digest.hexdigest()


def _read(folder: Path, name: str, card: dict[str, Any]) -> Extracted:
    part = card["splits"][name]
    x = rows_of(folder / f"{name}.safetensors")
    kept = np.ones(part["images"], dtype=bool)
    kept[[number for number, _ in part["skipped"]]] = False
    return Extracted(x, np.flatnonzero(kept), [text for _, text in part["skipped"]])


def _report_skipped(parts: dict[str, Extracted], folder: Path, on_corrupt: str) -> None:
    skipped = [path for split in parts.values() for path in split.skipped]
    if not skipped:
        return
    if on_corrupt == "raise":
        raise InputError(corrupt(Path(skipped[0]), "an earlier extraction left it out"))
    more = f" and {len(skipped) - 5} more, all listed in {folder / 'card.json'}"
    warn_user(
        f"{len(skipped)} images could not be decoded and are left out: {', '.join(skipped[:5])}"
        f"{more if len(skipped) > 5 else ''}."
    )
