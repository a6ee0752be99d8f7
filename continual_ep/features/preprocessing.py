"""Resize, crop and normalise images as a backbone was trained with."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocessing:
    r"""Resize the short side (with antialiasing), crop the centre, normalise, rotate.

    Values become :math:`(x - \mu_c) / \sigma_c` with x in [0, 1].

    :param resize: pixels of the short side; at least ``crop``.
    :param crop: side of the square that is cut out of the centre.
    :param interpolation: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``.
    :param mean, std: :math:`\mu_c, \sigma_c` of red, green and blue.
    :param turn: degrees of rotation, counter-clockwise, a multiple of 90. (Networks that were converted
        from another framework may need the image upside down, since borders are padded differently.)
    :raises ConfigurationError: values that cannot work.
    """

    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    turn: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            raise ConfigurationError(
                f"preprocessing: crop={self.crop} must lie in 1..resize={self.resize}."
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigurationError(
                f"preprocessing: interpolation={self.interpolation!r} is unknown: choose one of "
                f"{INTERPOLATIONS}."
            )
        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise ConfigurationError(
                f"preprocessing: mean={self.mean} and std={self.std} need a value for red, green "
                "and blue each, std above 0."
            )
        if self.turn % 90:
            raise ConfigurationError(f"preprocessing: turn={self.turn} must be a multiple of 90.")

    def framed(self, image: Any) -> Tensor:
        """A Pillow image, resized and cropped: ``(3, crop, crop)`` uint8."""
        from torchvision.transforms import functional as pictures

        rgb = image.convert("RGB")
        rgb = pictures.resize(rgb, self.resize, self._mode(), antialias=True)
        rgb = pictures.center_crop(rgb, [self.crop, self.crop])
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)

    def framed_batch(self, images: Tensor) -> Tensor:
        """The same for a batch ``(n, h, w)`` or ``(n, c, h, w)`` of values in [0, 1].

        One channel becomes three equal ones; a fourth (transparency) is left out.
        """
        from torchvision.transforms import functional as pictures

        images = images.unsqueeze(1) if images.dim() == 3 else images
        images = images[:, :3] if images.shape[1] != 1 else images.expand(-1, 3, -1, -1)
        images = pictures.resize(images, self.resize, self._mode(), antialias=True)
        # Cubic interpolation overshoots; the pixels of an image file cannot.
        return pictures.center_crop(images, [self.crop, self.crop]).clamp(0.0, 1.0)

    def normalised(self, images: Tensor) -> Tensor:
        """``(n, 3, h, w)`` in [0, 1] as the backbone wants it."""
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return torch.rot90((images - mean) / std, self.turn // 90, (2, 3))

    def _mode(self) -> Any:
        from torchvision.transforms import InterpolationMode

        return InterpolationMode(self.interpolation)
