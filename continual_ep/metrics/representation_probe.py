"""An Avalanche plugin that asks what the last hidden layer still knows, beside the network's answers."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from avalanche.models import avalanche_forward
from numpy.typing import NDArray
from torch import Tensor, nn

from continual_ep.errors import CheckpointError, ConfigurationError, InputError, reading_state
from continual_ep.forward_passes import evaluating, penultimate
from continual_ep.metrics.around_nights import MeasuredNights
from continual_ep.metrics.evaluation import batches_of
from continual_ep.metrics.margins import Margins, distribution, margins
from continual_ep.metrics.publishing import publish
from continual_ep.metrics.readouts import Readout, nearest_class_mean, ridge_readout
from continual_ep.metrics.record import AccuracyRecord
from continual_ep.seeding import generator_from
from continual_ep.streams.experiences import learns_jointly, part_of

Features = Callable[[nn.Module, Tensor], Tensor]

#: What is measured: the network's own answers and two read-outs of its last hidden layer.
READOUTS = ("network", "ridge", "ncm")


class Measurement(NamedTuple):
    """One look at a model.

    :param accuracies: ``(experiences,)`` of each of :data:`READOUTS`.
    :param margins: of the newest classes on samples of older ones; None without such samples.
    """

    accuracies: dict[str, NDArray[np.float64]]
    margins: Margins | None


class Drawn(NamedTuple):
    """Training samples of one experience.

    :param sets: data sets that hold the samples; :param classes: all classes of the experience.
    """

    sets: list[Any]
    classes: set[int]


class RepresentationProbe(MeasuredNights):
    """Tells apart what a network forgets in its outputs and in its last hidden layer.

    After each experience, before and after its night, two read-outs of the last hidden layer are
    fitted to training data of **all** experiences so far: ridge regression and nearest class mean
    (NCM). They are scored on the evaluation stream, beside the network's own answers. Where the
    network's answers fall and ridge stays, the output layer forgets (output forgetting); where
    ridge falls, the hidden layer does (representation forgetting).

    **For research: it uses old training data, which a continual learner does not have.** Nothing of
    it reaches the network: weights, buffers, training modes and random streams are as without it.

    :param train_stream: the training stream, whole; read-outs are fitted to it.
    :param stream: on which is scored: a test or validation stream.
    :param samples: at most so many training samples of each experience, drawn once.
    :param strength: of the ridge penalty, in units of the mean sum of squares of a hidden unit.
    :param batch_size: samples per forward pass.
    :param features: ``(model, x) -> (batch, n)``; default: the last hidden layer
        (:func:`~continual_ep.forward_passes.penultimate`; recurrent networks: of the free phase).
    :param seed: of the draw of samples.
    :param publish: hand the values to the strategy's evaluator.
    :raises ConfigurationError: for a value out of its range.

    ``ridge``, ``ncm`` and ``network`` are :class:`~continual_ep.metrics.AccuracyRecord`; ``margins``
    has an entry for each row, see :meth:`to_dict`.
    """

    def __init__(
        self,
        train_stream: Any,
        stream: Any,
        *,
        samples: int = 500,
        strength: float = 1e-2,
        batch_size: int = 1000,
        features: Features | None = None,
        seed: int = 0,
        publish: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("samples", samples), ("batch_size", batch_size)):
            if value < 1:
                raise ConfigurationError(f"{name}={value} must be at least 1.")
        if not strength > 0:
            raise ConfigurationError(f"strength={strength} must be above 0.")
        self.train_stream, self.stream = train_stream, stream
        self.samples, self.strength, self.batch_size = samples, strength, batch_size
        self.features, self.seed, self.publish = features, seed, publish
        counts = [len(experience.dataset) for experience in stream]
        name = str(getattr(stream, "name", "stream"))
        self.records = {readout: AccuracyRecord(name, list(counts)) for readout in READOUTS}
        #: For each row ``{"awake": Margins or None, "asleep": Margins or None}``.
        self.margins: list[dict[str, Margins | None]] = []
        self._drawn: dict[int, Drawn] | None = None

    @property
    def network(self) -> AccuracyRecord:
        """Accuracies of the network's own answers."""
        return self.records["network"]

    @property
    def ridge(self) -> AccuracyRecord:
        """Accuracies of ridge regression on the last hidden layer."""
        return self.records["ridge"]

    @property
    def ncm(self) -> AccuracyRecord:
        """Accuracies of the nearest class mean in the last hidden layer."""
        return self.records["ncm"]

    def summary(self) -> dict[str, float]:
        """Pooled accuracies of the read-outs at the end: ``probe_ridge``, ``probe_ncm``, ``..._awake``."""
        values = {}
        for readout in ("ridge", "ncm"):
            values[f"probe_{readout}"] = float(self.records[readout].pooled_asleep[-1])
            values[f"probe_{readout}_awake"] = float(self.records[readout].pooled_awake[-1])
        return values

    # ---- measuring ---------------------------------------------------------------------------------

    def measure(self, strategy: Any, experience: int) -> Measurement:
        """Fit the read-outs and score them.

        :param experience: the one learned last.
        :raises InputError: when it is none of ``train_stream``.
        """
        drawn = self._samples()
        if experience not in drawn:
            raise InputError(
                f"experience {experience} is not in the probe's train_stream, which has "
                f"{sorted(drawn)}: give the whole training stream"
            )
        seen = sorted({*self.network.trained, experience} & drawn.keys())
        if learns_jointly(strategy):
            seen = sorted(drawn)
        with evaluating(strategy.model, strategy.device):
            looks = [
                look for k in seen for part in drawn[k].sets for look in self._looks(strategy, part)
            ]
            hidden, labels = (torch.cat([look[column] for look in looks]) for column in (0, 2))
            readouts = {
                "ridge": ridge_readout(hidden, labels, self.strength),
                "ncm": nearest_class_mean(hidden, labels),
            }
            newest = drawn[experience].classes
            older = {c for k in seen for c in drawn[k].classes} - newest
            return self._scored(strategy, readouts, newest, older)

    def _scored(
        self, strategy: Any, readouts: dict[str, Readout], newest: set[int], older: set[int]
    ) -> Measurement:
        right: dict[str, list[float]] = {name: [] for name in READOUTS}
        collected: list[Tensor] = []
        for experience in self.stream:
            hits = dict.fromkeys(READOUTS, 0)
            for hidden, outputs, labels in self._looks(strategy, experience.dataset.eval()):
                hits["network"] += int((outputs.argmax(1) == labels).sum())
                for name, readout in readouts.items():
                    hits[name] += int((readout.answers(hidden) == labels).sum())
                old = torch.isin(labels, torch.tensor(sorted(older), dtype=labels.dtype))
                if older and outputs.shape[1] > max(newest | older):
                    collected.append(margins(outputs[old], newest, older))
            for name, count in hits.items():
                right[name].append(count / len(experience.dataset))
        accuracies = {name: np.array(values) for name, values in right.items()}
        one_task = len({label for e in self.stream for label in e.task_labels}) == 1
        kept = torch.cat(collected) if collected and one_task else torch.zeros(0)
        return Measurement(accuracies, distribution(kept))

    def _looks(self, strategy: Any, dataset: Any) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Last hidden layer, outputs and labels of each batch, on the CPU."""
        for x, y, task in batches_of(dataset, self.batch_size, strategy.device):
            x, tasks = x.to(strategy.device), None if task is None else task.to(strategy.device)
            outputs: list[Tensor] = []

            def forward(x: Tensor, tasks: Any = tasks, outputs: list[Tensor] = outputs) -> Tensor:
                outputs.append(avalanche_forward(strategy.model, x, tasks))
                return outputs[-1]

            if self.features is None:
                hidden = penultimate(strategy.model, x, forward)
            else:
                hidden = self.features(strategy.model, x).flatten(1)
            output = outputs[-1] if outputs else forward(x)
            yield hidden.detach().cpu(), output.detach().cpu(), y.cpu()

    def _samples(self) -> dict[int, Drawn]:
        """Training samples by experience, drawn at the first call; online parts stand together."""
        if self._drawn is None:
            parts: dict[int, list[Any]] = {}
            for experience in self.train_stream:
                parts.setdefault(part_of(experience).experience, []).append(experience.dataset)
            self._drawn = {number: self._draw(number, sets) for number, sets in parts.items()}
        return self._drawn

    def _draw(self, experience: int, sets: list[Any]) -> Drawn:
        lengths = [len(dataset) for dataset in sets]
        generator = generator_from(f"probe:{self.seed}:{experience}")
        chosen = torch.randperm(sum(lengths), generator=generator)[: self.samples].sort().values
        starts = np.cumsum([0, *lengths])
        subsets = []
        for dataset, first, end in zip(sets, starts[:-1], starts[1:], strict=True):
            inside = chosen[(chosen >= first) & (chosen < end)] - first
            if len(inside):
                subsets.append(dataset.subset(inside.tolist()).eval())
        classes = {int(label) for dataset in sets for label in dataset.targets.uniques}
        return Drawn(subsets, classes)

    def add_row(self, strategy: Any, experience: int, awake: Any, final: Any, slept: bool) -> None:
        if len(self.network.trained) and self.network.trained[-1] == experience:
            self.margins.pop()  # the records replace their last row, too
        for name, record in self.records.items():
            record.jointly = learns_jointly(strategy)
            record.add(experience, awake.accuracies[name], final.accuracies[name], slept)
        self.margins.append({"awake": awake.margins, "asleep": final.margins})
        if self.publish:
            stream = f"{self.network.stream}_stream"
            values = {f"{name}/{stream}": value for name, value in self.summary().items()}
            for phase, measured in self.margins[-1].items():
                if measured is not None:
                    values[f"probe_new_wins_{phase}/{stream}"] = measured.new_wins
            publish(self, strategy, values, len(self.network.trained) - 1)

    # ---- state -----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Records and margins as plain lists and numbers, for JSON."""
        rows = [
            {phase: None if m is None else m.to_dict() for phase, m in row.items()}
            for row in self.margins
        ]
        return {
            **{name: record.to_dict() for name, record in self.records.items()},
            "margins": rows,
        }

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`to_dict` gives; loads with ``torch.load(weights_only=True)``."""
        return self.to_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a stored state of the same stream.

        :raises CheckpointError: a damaged state, or one of another stream; nothing changes then.
        """
        with reading_state("RepresentationProbe"):
            records = {name: AccuracyRecord.from_dict(state[name]) for name in READOUTS}
            rows = [
                {phase: None if m is None else Margins(**m) for phase, m in row.items()}
                for row in state["margins"]
            ]
        if any(record.counts != self.network.counts for record in records.values()):
            raise CheckpointError(
                f"the state of the probe is of a stream with {records['network'].counts} samples, but "
                f"this one has {self.network.counts}"
            )
        self.records, self.margins = records, rows
        self._drop_row()
