"""Random flips and crops of whole batches of images, on their device."""

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError, InputError


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror some images left to right.

    :param images: ``(n, ..., h, w)``; :param chosen: ``(n,)`` bool, which of them.
    """
    return torch.where(chosen.view(-1, *[1] * (images.dim() - 1)), images.flip(-1), images)


def shifted_crop(images: Tensor, padding: int, down: Tensor, right: Tensor) -> Tensor:
    """Pad with zeros, then crop to the old size at an offset of its own for each image.

    Row i, column j of the result is row ``i + down``, column ``j + right`` of the padded image.

    :param images: ``(n, c, h, w)``.
    :param padding: pixels on each side.
    :param down, right: ``(n,)`` int64 in ``0 .. 2 * padding``; ``padding`` leaves the image in place.
    """
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = right[:, None] + torch.arange(width, device=images.device)
    at = torch.arange(count, device=images.device)[:, None, None]
    # Indexing puts the channels last.
    cut = padded.permute(0, 2, 3, 1)[at, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2)


class RandomTransforms:
    """Random flips and crops of batches, drawn from a generator of its own.

    :param image_shape: ``(h, w)`` or ``(c, h, w)`` of the images, which may come flattened;
        ``benchmark.image_shape``.
    :param flip: mirror half of the images left to right.
    :param padding: pixels for a crop with padding; 0 for none.
    :param seed: of the generator, which lies on the CPU so that every device draws the same.
    :raises ConfigurationError: values that cannot work, or feature vectors (``image_shape`` None).
    """

    def __init__(
        self,
        image_shape: tuple[int, ...] | None,
        *,
        flip: bool = False,
        padding: int = 0,
        seed: int = 0,
    ) -> None:
        if image_shape is None or len(image_shape) not in (2, 3):
            raise ConfigurationError(
                f"image_shape={image_shape}: (height, width) or (channels, height, width) is needed; "
                "feature vectors cannot be flipped or cropped."
            )
        if padding < 0 or not isinstance(padding, int):
            raise ConfigurationError(f"padding={padding} must be a number of pixels, 0 or more.")
        channels = image_shape[0] if len(image_shape) == 3 else 1
        self.image_shape = (channels, *image_shape[-2:])
        self.flip, self.padding = flip, padding
        # The seed itself, not a name: transforms stay those of version 0.1.
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, x: Tensor) -> Tensor:
        """A batch ``(n, c, h, w)``, ``(n, h, w)`` or flattened, changed, in the shape it had.

        :raises InputError: a batch of other images.
        """
        if x[:1].numel() != torch.Size(self.image_shape).numel():
            raise InputError(f"samples of shape {tuple(x.shape[1:])} are not {self.image_shape}.")
        images = x.reshape(-1, *self.image_shape)
        if self.flip:
            chosen = torch.rand(len(x), generator=self.generator) < 0.5
            images = flip(images, chosen.to(x.device))
        if self.padding:
            drawn = torch.randint(2 * self.padding + 1, (2, len(x)), generator=self.generator)
            down, right = drawn.to(x.device)
            images = shifted_crop(images, self.padding, down, right)
        return images.reshape(x.shape)
