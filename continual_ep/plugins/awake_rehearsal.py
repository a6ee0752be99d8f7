"""Awake rehearsal: train on exemplars of earlier experiences together with the new experience."""

from collections.abc import Mapping
from typing import Any

from avalanche.core import SupervisedPlugin
from torch.utils.data import ConcatDataset, DataLoader

from continual_ep.errors import ConfigurationError
from continual_ep.plugins.exemplars import ExemplarMemory, Features, MixedBatches
from continual_ep.seeding import restored_generator
from continual_ep.streams.experiences import refuse_empty
from continual_ep.streams.selection import named_generator


class AwakeRehearsal(SupervisedPlugin):
    """Mix exemplars of earlier experiences into the batches of the new one.

    Every batch has ``batch_size`` samples, new ones and exemplars together, so that a step costs
    the same with and without rehearsal (Avalanche's own replay doubles the batch). With a
    ``share`` of 0.5 half of each batch is exemplars, repeated as often as it takes when there are
    few; an epoch is one pass over the new samples and has 1 / (1 - share) times the
    steps. The last batch has the remaining new samples and the same number of exemplars. With
    ``share="proportional"`` exemplars are shuffled among the new samples, and an epoch
    shows each sample of either kind once.

    Exemplars are chosen after each experience (``after_training_exp``) from its training set, and
    used from the second experience on, never in the experience that they are from. The choice
    depends on the data and the seed alone, not on the global random state, so the place of
    this plugin in the list does not matter; with herding it depends on the features, and a
    sleep listed before this plugin comes first. It composes with plugins that change
    ``strategy.adapted_dataset``, but not with others that replace ``strategy.dataloader``.

    :param per_class: exemplars kept of each class, or
    :param total: exemplars kept in all; exactly one of the two.
    :param selection: ``"class-balanced"``, ``"reservoir"`` (with ``total``) or ``"herding"``.
    :param batch_size: samples in a mixed batch; the strategy's ``train_mb_size`` when None.
    :param share: part of each batch that is exemplars, in (0, 1) and rounded to at least one sample
        of either kind, or ``"proportional"``.
    :param features: ``(model, x) -> (batch, n)`` for herding. Default: the activity
        below the readout.
    :param seed: seeds the choice of exemplars, and the order of mixed batches, each with a generator
        of its own.
    """

    supports_distributed = False

    def __init__(
        self,
        *,
        per_class: int | None = None,
        total: int | None = None,
        selection: str = "class-balanced",
        batch_size: int | None = None,
        share: float | str = 0.5,
        features: Features | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.memory = ExemplarMemory(
            per_class=per_class, total=total, selection=selection, features=features, seed=seed
        )
        if share != "proportional" and not (isinstance(share, float) and 0 < share < 1):
            raise ConfigurationError(f"share={share!r} must lie in (0, 1) or be 'proportional'.")
        if batch_size is not None and batch_size < 1:
            raise ConfigurationError(f"batch_size={batch_size} must be at least 1.")
        self.batch_size = batch_size
        self.share = share
        self.generator = named_generator(seed, "order of mixed batches")

    def batch_of(self, strategy: Any) -> tuple[int, int]:
        """``(new samples, exemplars)`` in each full batch, unless they are proportional."""
        size = self.batch_size or int(strategy.train_mb_size)
        if size < 2 or isinstance(self.share, str):
            raise ConfigurationError(
                f"a mixed batch of {size} cannot hold a new sample and an exemplar: use a batch "
                "size of at least 2, or share='proportional'."
            )
        exemplars = min(max(round(size * self.share), 1), size - 1)
        return size - exemplars, exemplars

    def check(self, strategy: Any, experience: Any, example: Any) -> None:
        """:raises ConfigurationError: for batches that cannot be mixed; nothing is trained."""
        if self.share != "proportional":
            self.batch_of(strategy)

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        refuse_empty(strategy)

    def before_training_exp(
        self,
        strategy: Any,
        num_workers: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        pin_memory: bool | None = None,
        persistent_workers: bool = False,
        **kwargs: Any,
    ) -> None:
        experience = strategy.experience
        if self.memory.disconnected:
            self.memory.connect(experience.origin_stream)
        exemplars = self.memory.without(int(experience.current_experience))
        if not len(exemplars):
            return
        new = strategy.adapted_dataset
        loader: dict[str, Any] = {
            "collate_fn": new.collate_fn,
            "num_workers": num_workers,
            "pin_memory": strategy.device.type == "cuda" if pin_memory is None else pin_memory,
            "persistent_workers": persistent_workers and num_workers > 0,
            "generator": self.generator,
        }
        if self.share == "proportional":
            size = self.batch_size or int(strategy.train_mb_size)
            loader |= {"batch_size": size, "shuffle": shuffle, "drop_last": drop_last}
        else:
            sizes, parts = (len(new), len(exemplars)), self.batch_of(strategy)
            loader["batch_sampler"] = MixedBatches(
                sizes, *parts, generator=self.generator, shuffle=shuffle, drop_last=drop_last
            )
        strategy.dataloader = DataLoader(ConcatDataset([new, exemplars]), **loader)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.memory.post_adapt(strategy, strategy.experience)

    def state_dict(self) -> dict[str, Any]:
        """The exemplars by experience and index, and the state of the generator."""
        return {**self.memory.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any], benchmark: Any = None) -> None:
        """Load stored exemplars.

        :param benchmark: the benchmark that they are from, built as before. None: the benchmark of
            the experience that is trained next.
        :raises CheckpointError: a damaged state, other options, or a benchmark without these samples;
            the first two change nothing.
        """
        generator = restored_generator(state, "AwakeRehearsal")
        self.memory.load_state_dict(state, benchmark)
        self.generator = generator
