"""Options for images: at what size, or through which backbone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from continual_ep.features.backbones import Backbone
from continual_ep.features.preprocessing import Preprocessing
from continual_ep.options import Options, option


@dataclass(frozen=True)
class Images(Options):
    """How images become inputs.

    :param backbone: a name or a callable, see :func:`~continual_ep.features.as_backbone`.
    :param cache: each entry has a folder of its own there, named by its key.
    :param amp: torch's autocast.
    :raises ConfigurationError: values that cannot work.
    """

    size: int | None = option(
        None, "side in pixels of image files, where there is no backbone", ge=1
    )
    backbone: str | Callable[..., Any] | Backbone | None = option(
        None,
        "frozen network whose features are the inputs: mobilenet_v2, resnet50, ..., or module:function",
    )
    weights: str | Path | None = option(
        None, "file of its state dict; null: the published one, if on disk"
    )
    preprocessing: Preprocessing | dict[str, Any] | None = option(
        None, "changes to its preprocessing: resize, crop, interpolation, mean, std, turn"
    )
    cache: str | Path = option("cache", "folder where features are kept")
    device: str | None = option(None, "where the backbone computes; null: a GPU if there is one")
    batch_size: int = option(64, "images of a pass of the backbone", ge=1)
    amp: bool = option(False, "half precision in the backbone where it is safe")
    workers: int = option(2, "threads that decode images", ge=1)
    on_corrupt: Literal["raise", "skip"] = option(
        "raise", "images that cannot be decoded: stop, or leave out and list"
    )

    @property
    def computing_device(self) -> str:
        """The device, chosen where none is given."""
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")
