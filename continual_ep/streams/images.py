"""Turn images into inputs: pixels at one size, or features of a frozen backbone."""

from typing import Any

import numpy as np

from continual_ep.errors import ConfigurationError, InputError
from continual_ep.features.backbones import as_backbone
from continual_ep.features.extraction import (
    Encoder,
    Extracted,
    Features,
    Pixels,
    extract,
)
from continual_ep.features.options import Images
from continual_ep.features.preprocessing import Preprocessing
from continual_ep.streams.arrays import Arrays
from continual_ep.streams.files import ImageFiles

#: Up to so many values a split is read into memory; larger ones stay on disk, mapped.
READ_AT_ONCE = 2**28


def as_arrays(data: Arrays | ImageFiles, images: Images, *, download: bool = False) -> Arrays:
    """The inputs of a source: its arrays, its decoded images, or their features.

    :raises ConfigurationError: image files without a size or a backbone; features for no images;
        options without what they belong to.
    :raises MissingDataError: weights that are not on disk.
    :raises InputError: images that cannot be decoded.
    """
    if images.backbone is None:
        _refuse_strays(images)
        if isinstance(data, Arrays):
            if images.size is not None:
                raise ConfigurationError(
                    f"images: size={images.size} is for image files; this stream's images are of "
                    f"shape {data.train_x.shape[1:]}."
                )
            return data
        return _of_files(data, _pixels(images.size), images)
    if images.size is not None:
        raise ConfigurationError(
            f"images: size={images.size} is for pixels; a backbone has its own (preprocessing)."
        )
    backbone = as_backbone(
        images.backbone,
        weights=images.weights,
        preprocessing=images.preprocessing,
        download=download,
    )
    encoder = Features(backbone, images.amp)
    if isinstance(data, ImageFiles):
        return _of_files(data, encoder, images)
    return _of_arrays(data, encoder, images)


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


def _of_files(data: ImageFiles, encoder: Encoder, images: Images) -> Arrays:
    parts = extract({"train": data.train, "test": data.test}, encoder, images)
    train, test = parts["train"], parts["test"]
    train_y, test_y = data.train.labels[train.kept], data.test.labels[test.kept]
    for labels in (train_y, test_y):
        lost = sorted(set(range(data.n_classes)) - set(labels.tolist()))
        if lost:
            raise InputError(
                f"no image of classes {[data.class_names[label] for label in lost[:5]]} can be decoded."
            )
    return Arrays(_held(train), train_y, _held(test), test_y, data.class_names, data.label_values)


def _of_arrays(data: Arrays, encoder: Encoder, images: Images) -> Arrays:
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
    parts = extract(splits, encoder, images)
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
