"""Choose exemplars of earlier experiences and mix them into batches."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from avalanche.benchmarks.utils.utils import concat_datasets
from avalanche.training.storage_policy import ExemplarsBuffer
from torch import Tensor, nn
from torch.utils.data import Sampler

from continual_ep.errors import CheckpointError, ConfigurationError
from continual_ep.forward_passes import evaluating, penultimate
from continual_ep.metrics.evaluation import batches_of
from continual_ep.streams.selection import named_generator

SELECTIONS = ("class-balanced", "reservoir", "herding")

Features = Callable[[nn.Module, Tensor], Tensor]


class ExemplarMemory(ExemplarsBuffer):
    """An Avalanche storage policy that records the origin of each exemplar.

    Every sample gets a key, and each group (a class, or all samples for the reservoir) keeps the
    samples with the largest keys, as many as its quota. Random keys are a function of
    the seed and the sample alone: uniform sampling over the stream, with no global random state
    and the same exemplars when an experience is seen again. Herding's key is minus the rank.

    :param per_class: exemplars of each class seen, or
    :param total: exemplars in all. A class-balanced total is shared as equally as possible, classes
        seen first getting one more.
    :param selection: ``"class-balanced"``, ``"reservoir"`` (all samples alike, with ``total``) or
        ``"herding"`` (the samples whose running mean of features stays closest to the class mean;
        Rebuffi et al. 2017, arXiv:1611.07725).
    :param features: ``(model, x) -> (batch, n)`` for herding; :func:`penultimate` when None.
    """

    def __init__(
        self,
        *,
        per_class: int | None = None,
        total: int | None = None,
        selection: str = "class-balanced",
        features: Features | None = None,
        seed: int = 0,
    ) -> None:
        _check_options(per_class, total, selection)
        super().__init__(max_size=total or 0)
        self.per_class, self.total = per_class, total
        self.selection = selection
        self.features = features or penultimate
        self.seed = seed
        #: ``(exemplars, 3)``: experience, index in its training set, label; sorted.
        self.entries = torch.zeros(0, 3, dtype=torch.long)
        self.keys = torch.zeros(0, dtype=torch.float64)
        #: Classes in the order in which they were first seen.
        self.classes: list[int] = []
        self._sources: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def disconnected(self) -> list[int]:
        """Experiences whose indices were loaded but whose samples are not connected yet."""
        return sorted(set(self.entries[:, 0].tolist()) - set(self._sources))

    @property
    def buffer(self) -> Any:
        """All exemplars as one Avalanche data set."""
        return self.without(None)

    def without(self, experience: int | None) -> Any:
        """The exemplars that are not of this experience, as an Avalanche data set."""
        kept = [
            source.subset(self.entries[self.entries[:, 0] == index][:, 1].tolist())
            for index, source in sorted(self._sources.items())
            if index != experience
        ]
        return concat_datasets(kept)

    def post_adapt(self, agent: Any, exp: Any) -> None:
        """Choose exemplars of an experience that was just learned; a repeated one replaces its own."""
        experience, dataset = int(exp.current_experience), exp.dataset
        labels = torch.tensor([int(label) for label in dataset.targets], dtype=torch.long)
        self.classes += [c for c in dict.fromkeys(labels.tolist()) if c not in self.classes]
        keys = self._keys_of(agent, dataset, labels, experience)
        indices = torch.arange(len(labels))
        new = torch.stack([torch.full_like(indices, experience), indices, labels], dim=1)
        others = self.entries[:, 0] != experience
        self._sources[experience] = dataset
        self._keep_best(
            torch.cat([self.entries[others], new]), torch.cat([self.keys[others], keys])
        )

    def resize(self, strategy: Any, new_size: int) -> None:
        """Change the total; a smaller one drops exemplars for good."""
        if self.total is None:
            raise ConfigurationError("a memory of so many exemplars per class has no total to set.")
        self.total = self.max_size = new_size
        self._keep_best(self.entries, self.keys)

    def quotas(self) -> dict[int, int]:
        """The largest number of exemplars of each class."""
        if self.per_class is not None:
            return dict.fromkeys(self.classes, self.per_class)
        share, more = divmod(self.total or 0, max(1, len(self.classes)))
        return {label: share + (place < more) for place, label in enumerate(self.classes)}

    def state_dict(self) -> dict[str, Any]:
        """Indices and keys; no sample is stored."""
        return {
            "options": self._options(),
            "entries": self.entries.clone(),
            "keys": self.keys.clone(),
            "classes": list(self.classes),
        }

    def load_state_dict(self, state: Mapping[str, Any], benchmark: Any = None) -> None:
        """Load stored indices; :meth:`connect` finds their samples.

        :param benchmark: the benchmark that they are from, built as before, to connect to at once.
        :raises CheckpointError: a damaged state, or one saved with other options; nothing changes then.
        """
        _check_state(state)
        if state["options"] != self._options():
            raise CheckpointError(
                f"the exemplars were chosen with {state['options']}, not with {self._options()}: "
                "use the same options to go on."
            )
        self.entries, self.keys = state["entries"].clone(), state["keys"].clone()
        self.classes, self._sources = list(state["classes"]), {}
        if benchmark is not None:
            self.connect(benchmark.train_stream)

    def connect(self, stream: Any) -> None:
        """Find the samples of loaded indices in the training stream they were chosen from.

        :param stream: that stream or a slice of it; experiences are counted in the whole.
        :raises CheckpointError: a stream that has not got these samples.
        """
        if hasattr(stream, "benchmark"):
            stream = stream.benchmark.streams[stream.name]
        for experience in self.disconnected:
            _, indices, labels = self.entries[self.entries[:, 0] == experience].T
            dataset: Any = stream[experience].dataset if experience < len(stream) else None
            known = [] if dataset is None else dataset.targets
            if [known[i] for i in indices.tolist() if i < len(known)] != labels.tolist():
                raise CheckpointError(
                    f"the exemplars of experience {experience} are not in this stream: build it "
                    "with the same data, seed and limits as before."
                )
            self._sources[experience] = dataset

    def _options(self) -> dict[str, Any]:
        names = ("per_class", "total", "selection", "seed")
        return {name: getattr(self, name) for name in names}

    def _keys_of(self, agent: Any, dataset: Any, labels: Tensor, experience: int) -> Tensor:
        if self.selection != "herding":
            generator = named_generator(self.seed, f"exemplars of experience {experience}")
            return torch.rand(len(labels), generator=generator, dtype=torch.float64)
        # Only as many as the quota are ranked: quotas never grow.
        keys = torch.full((len(labels),), -torch.inf, dtype=torch.float64)
        features = _features(agent, dataset, self.features)
        quotas = self.quotas()
        for label in labels.unique().tolist():
            members = torch.nonzero(labels == label).flatten()
            ranked = members[herding_order(features[members], quotas[label])]
            keys[ranked] = -torch.arange(len(ranked), dtype=torch.float64)
        return keys

    def _keep_best(self, entries: Tensor, keys: Tensor) -> None:
        if not len(entries):
            self.entries, self.keys, self._sources = entries, keys, {}
            return
        best = keys.argsort(descending=True, stable=True)
        if self.selection == "reservoir":
            best = best[: self.total]
        else:
            best = torch.cat(
                [best[entries[best, 2] == c][:quota] for c, quota in self.quotas().items()]
            )
        # Sorted by origin: a resumed run then has its exemplars in the same order.
        place = best[(entries[best, 0] * (1 + entries[:, 1].max()) + entries[best, 1]).argsort()]
        self.entries, self.keys = entries[place], keys[place]
        present = set(self.entries[:, 0].tolist())
        self._sources = {k: v for k, v in self._sources.items() if k in present}


class MixedBatches(Sampler[list[int]]):
    """Batches of new samples and exemplars, as indices into the two concatenated sets.

    An epoch is one pass over the new samples. Each batch has exactly ``n_exemplars`` exemplars,
    drawn in turn from one shuffled round after another: none returns before all had their turn.
    The last batch has the remaining new samples and as many exemplars as the others.

    :param generator: draws the orders; torch's global one when None, as for every data loader.
    """

    def __init__(
        self,
        sizes: tuple[int, int],
        n_new: int,
        n_exemplars: int,
        *,
        generator: torch.Generator | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        self.sizes = sizes
        self.n_new, self.n_exemplars = n_new, n_exemplars
        self.shuffle, self.drop_last = shuffle, drop_last
        self.generator = generator

    def __len__(self) -> int:
        whole, rest = divmod(self.sizes[0], self.n_new)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        new, memory = self.sizes
        order = self._round(new)
        waiting: list[int] = []
        for batch in range(len(self)):
            while len(waiting) < self.n_exemplars:
                waiting += [new + index for index in self._round(memory)]
            exemplars, waiting = waiting[: self.n_exemplars], waiting[self.n_exemplars :]
            yield order[batch * self.n_new : (batch + 1) * self.n_new] + exemplars

    def _round(self, size: int) -> list[int]:
        shuffled = torch.randperm(size, generator=self.generator) if self.shuffle else None
        indices: list[int] = (torch.arange(size) if shuffled is None else shuffled).tolist()
        return indices


def herding_order(features: Tensor, count: int) -> Tensor:
    r"""The first ``count`` samples in herding order.

    .. math:: p_k = \arg\min_x \Big\| \mu - \tfrac1k
        \Big( \varphi(x) + \sum_{j<k} \varphi(p_j) \Big) \Big\|

    with features :math:`\varphi` of unit length and their mean :math:`\mu`
    (Rebuffi et al. 2017, arXiv:1611.07725, algorithm 4).

    :param features: ``(samples, n)``.
    """
    unit = nn.functional.normalize(features.double().flatten(1), dim=1)
    mean, total = unit.mean(dim=0), torch.zeros_like(unit[0])
    free = torch.ones(len(unit), dtype=torch.bool)
    chosen = []
    for k in range(1, min(count, len(unit)) + 1):
        distances = (mean - (total + unit) / k).square().sum(dim=1)
        best = int(distances.masked_fill(~free, torch.inf).argmin())
        chosen.append(best)
        free[best] = False
        total += unit[best]
    return torch.tensor(chosen, dtype=torch.long)


def _features(agent: Any, dataset: Any, features: Features) -> Tensor:
    with evaluating(agent.model, agent.device):
        batches = [
            features(agent.model, x.to(agent.device)).detach().cpu()
            for x, *_ in batches_of(dataset.eval(), batch_size=1000)
        ]
    return torch.cat(batches)


def _check_state(state: Mapping[str, Any]) -> None:
    missing = [key for key in ("options", "entries", "keys", "classes") if key not in state]
    if missing:
        raise CheckpointError(f"the state of the exemplars is damaged: {missing} are not there")
    entries, keys, classes = state["entries"], state["keys"], state["classes"]
    for name, value, dtype, dims in (
        ("entries", entries, torch.long, 2),
        ("keys", keys, torch.float64, 1),
    ):
        if not isinstance(value, Tensor) or value.dtype != dtype or value.dim() != dims:
            raise CheckpointError(f"the state of the exemplars is damaged: {name!r} is {value!r}")
    if entries.shape != (len(keys), 3) or not isinstance(classes, list | tuple):
        raise CheckpointError(
            f"the state of the exemplars is damaged: entries of shape {tuple(entries.shape)} for "
            f"{len(keys)} keys, classes {classes!r}"
        )


def _check_options(per_class: int | None, total: int | None, selection: str) -> None:
    if (per_class is None) == (total is None):
        raise ConfigurationError(
            f"per_class={per_class} and total={total}: give exactly one of the two."
        )
    for name, value in (("per_class", per_class), ("total", total)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{name}={value} must be at least 1.")
    if selection not in SELECTIONS:
        raise ConfigurationError(f"selection={selection!r} is unknown: choose from {SELECTIONS}.")
    if selection == "reservoir" and total is None:
        raise ConfigurationError(
            "selection='reservoir' treats all samples alike and needs total=...; with per_class "
            "use selection='class-balanced', which is a reservoir for each class."
        )
