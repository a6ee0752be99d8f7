"""Random transforms of training batches, on the device."""

from typing import Any

from avalanche.core import SupervisedPlugin

from continual_ep.seeding import restored_generator
from continual_ep.streams.transforms import RandomTransforms


class Augmentation(SupervisedPlugin):
    """Flip and crop each training batch, exemplars included; evaluation batches are not changed.

    Acts on the batch that the strategy has just put on its device, before the forward pass, so it goes
    with whole batches (:class:`BatchFeed`) as with Avalanche's data loaders. Normalisation belongs to the
    stream (``standardize=True``), since it is the same for training and evaluation.

    :param image_shape: ``benchmark.image_shape``.
    :param flip: mirror half of the images left to right.
    :param padding: pixels of zeros around each image before it is cropped to its size; 0 for none.
    :param seed: of its own generator; plugging it in does not shift the training's random stream.
    :raises ConfigurationError: values that cannot work, or feature vectors.
    """

    supports_distributed = False

    def __init__(
        self,
        image_shape: tuple[int, ...] | None,
        *,
        flip: bool = True,
        padding: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.transforms = RandomTransforms(image_shape, flip=flip, padding=padding, seed=seed)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.mbatch[0] = self.transforms(strategy.mb_x)

    def state_dict(self) -> dict[str, Any]:
        """The state of the generator."""
        return {"generator": self.transforms.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """:raises CheckpointError: for a state that is none of this plugin's."""
        self.transforms.generator = restored_generator(state, "Augmentation")
