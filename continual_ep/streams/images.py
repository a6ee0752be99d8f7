"""Turn images into inputs: pixels at one size, or features of a frozen backbone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError, InputError
from continual_ep.features.backbones import Backbone, as_backbone
from continual_ep.features.extraction import (
    Encoder,
    Extracted,
    Extraction,
    Features,
    Pixels,
    extract,
)
from continual_ep.features.preprocessing import Preprocessing
from continual_ep.streams.arrays import Arrays
from continual_ep.streams.files import ImageFiles

#: Up to so many values a split is read into memory; larger ones stay on disk, mapped.
READ_AT_ONCE = 2**28


@dataclass(frozen=True)
class Images:
    """Options for images.

    Main arguments:

    :param size: side in pixels to which image files are brought when there is no backbone: short side
        resized, centre cropped. Images in arrays have their size.
    :param backbone: a frozen network whose features are the inputs; a name or a callable, see
        :func:`~continual_ep.features.as_backbone`. None for pixels.
    :param weights: file with the backbone's state dict; None for the published one, if on disk.

    Other arguments:

    :param preprocessing: changes to the backbone's published preprocessing, by name, e.g.
        ``{"resize": 256, "crop": 224}``; see :class:`~continual_ep.features.Preprocessing`.
    :param cache: folder where features, and pixels of image files, are kept.
    :param device: where the backbone computes; None: a GPU when there is one.
    :param batch_size: images of a pass.
    :param amp: let torch compute in half precision where it deems it safe.
    :param workers: threads that decode images.
    :param on_corrupt: ``"raise"``, or ``"skip"`` images that cannot be decoded, and list them.
    """

    size: int | None = None
    backbone: str | Callable[[Tensor], Tensor] | Backbone | None = None
    weights: str | Path | None = None
    preprocessing: Preprocessing | Mapping[str, Any] | None = None
    cache: str | Path = "cache"
    device: str | None = None
    batch_size: int = 64
    amp: bool = False
    workers: int = 2
    on_corrupt: str = "raise"

    def extraction(self) -> Extraction:
        """The options that change the computation and not its result."""
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return Extraction(
            Path(self.cache), device, self.batch_size, self.amp, self.workers, self.on_corrupt
        )


def as_arrays(data: Arrays | ImageFiles, images: Images, *, download: bool = False) -> Arrays:
    """The inputs of a source: its arrays, its decoded images, or their features.

    :raises ConfigurationError: image files without a size or a backbone; features for no images;
        options without what they belong to.
    :raises MissingDataError: weights that are not on disk.
    :raises InputError: images that cannot be decoded.
    """
    extraction = images.extraction()  # also checks the options
    if images.backbone is None:
        _refuse_strays(images)
        if isinstance(data, Arrays):
            if images.size is not None:
                raise ConfigurationError(
                    f"images: size={images.size} is for image files; this stream's images are of "
                    f"shape {data.train_x.shape[1:]}."
                )
            return data
        return _of_files(data, _pixels(images.size), extraction)
    if images.size is not None:
        raise ConfigurationError(
            f"images: size={images.size} is for pixels; a backbone has its own (preprocessing)."
        )
    given = images.preprocessing
    backbone = as_backbone(
        images.backbone,
        weights=images.weights,
        preprocessing=dict(given) if isinstance(given, Mapping) else given,
        download=download,
    )
    encoder = Features(backbone, images.amp)
    if isinstance(data, ImageFiles):
        return _of_files(data, encoder, extraction)
    return _of_arrays(data, encoder, extraction)


def _refuse_strays(images: Images) -> None:
    for name in ("weights", "preprocessing"):
        if getattr(images, name) is not None:
            raise ConfigurationError(f"images: {name} belongs to a backbone, and there is none.")


def _pixels(size: int | None) -> Pixels:
    if size is None:
        raise ConfigurationError(
            "images on disk have sizes of their own: give their size (images.size, "
            "--image-size) or a backbone (images.backbone, --backbone)."
        )
    return Pixels(Preprocessing(size, size))


def _of_files(data: ImageFiles, encoder: Encoder, extraction: Extraction) -> Arrays:
    parts = extract({"train": data.train, "test": data.test}, encoder, extraction)
    train, test = parts["train"], parts["test"]
    train_y, test_y = data.train.labels[train.kept], data.test.labels[test.kept]
    for labels in (train_y, test_y):
        lost = sorted(set(range(data.n_classes)) - set(labels.tolist()))
        if lost:
            raise InputError(
                f"no image of classes {[data.class_names[label] for label in lost[:5]]} can be decoded."
            )
    return Arrays(_held(train), train_y, _held(test), test_y, data.class_names, data.label_values)


def _of_arrays(data: Arrays, encoder: Encoder, extraction: Extraction) -> Arrays:
    if data.train_x.ndim < 3:
        raise ConfigurationError(
            f"a backbone wants images; this stream has vectors of {data.train_x.shape[1]} features."
        )
    divisor = data.divisor("auto")
    lowest = float(min(data.train_x.min(), data.test_x.min()))
    if lowest < 0:
        raise InputError(
            f"a backbone wants pixels in [0, 1] or 0..255; the lowest is {lowest:.3g}."
        )

    def unit(x: np.ndarray) -> np.ndarray:
        return x if x.dtype == np.uint8 else (x / divisor).astype(np.float32)

    splits: dict[str, Any] = {"train": unit(data.train_x), "test": unit(data.test_x)}
    parts = extract(splits, encoder, extraction)
    return Arrays(
        _held(parts["train"]),
        data.train_y,
        _held(parts["test"]),
        data.test_y,
        data.class_names,
        data.label_values,
    )


def _held(part: Extracted) -> np.ndarray:
    return np.array(part.x) if part.x.size <= READ_AT_ONCE else part.x
