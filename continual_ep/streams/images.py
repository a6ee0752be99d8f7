"""How images become inputs: as pixels at one size, or as the features of a frozen backbone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual_ep.errors import ConfigurationError
from continual_ep.streams.arrays import Arrays

if TYPE_CHECKING:
    from continual_ep.streams.files import ImageFiles


@dataclass(frozen=True)
class Images:
    """What to do with images.

    Main arguments:

    :param size: side in pixels to which images on disk are brought: short side resized, centre cropped.
        Needed for a folder of images without a backbone; images of a backbone have its size.
    :param backbone: a frozen network, by name (``"mobilenet_v2"``, ...) or ``module:function``; its
        features are the inputs. None for pixels.
    :param weights: file with the backbone's state dict; None for torchvision's own, if on disk.

    Other arguments:

    :param cache: folder where features are kept.
    :param device: where the backbone runs.
    :param batch_size: images per pass of the backbone.
    :param amp: let the backbone compute in half precision where torch deems it safe.
    :param workers: threads that decode images.
    :param on_corrupt: ``"raise"``, or ``"skip"`` images that cannot be decoded, and list them.
    """

    size: int | None = None
    backbone: Any = None
    weights: str | Path | None = None
    cache: str | Path = "cache"
    device: str = "cpu"
    batch_size: int = 64
    amp: bool = False
    workers: int = 2
    on_corrupt: str = "raise"
    progress: Callable[[int, int], None] | None = None


def as_arrays(found: "Arrays | ImageFiles", images: Images, *, download: bool = False) -> Arrays:
    """The inputs of a source: its arrays, its decoded images, or their features.

    :raises ConfigurationError: for image files without a size or a backbone.
    """
    if images.backbone is None and isinstance(found, Arrays):
        return found
    raise ConfigurationError("not wired yet")
