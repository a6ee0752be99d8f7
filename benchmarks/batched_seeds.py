"""Many seeds at once: an ensemble that learns a stream, without a training loop for each member."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from batched_nights import sleep_replay_ensemble
from numpy.typing import NDArray
from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.learning import EnsembleSGD, NudgingLoss
from continual_ep.metrics.record import AccuracyRecord
from continual_ep.networks import Ensemble
from continual_ep.seeding import generator_from
from continual_ep.sleep import RunningMean, SleepParameters
from continual_ep.strategies import make_loss
from continual_ep.streams.indexed_samples import IndexedSamples, index_samples

#: Samples evaluated at once.
EVALUATED_AT_ONCE = 1000


def train_ensemble(
    ensemble: Ensemble,
    benchmark: Any,
    *,
    seeds: Sequence[int],
    learning_rates: float | Sequence[float] = 0.05,
    momentum: float = 0.0,
    epochs: int = 1,
    batch_size: int = 20,
    loss: str = "auto",
    sleep: SleepParameters | Sequence[SleepParameters] | None = None,
    evaluate: str = "test",
    device: torch.device | str = "cpu",
) -> list[AccuracyRecord]:
    """Learn a stream experience by experience, each member in an order of its own.

    What a loop over seeds would do with plain SGD, as one: on a GPU that a single small network leaves idle
    the seeds cost little more than one.

    :param ensemble: changed in place.
    :param benchmark: of :func:`continual_ep.streams.class_incremental` and its like.
    :param seeds: one for each member; they draw the order of the samples and the replayed spikes.
    :param learning_rates: one for all, or one for each member.
    :param momentum, epochs, batch_size: as of SGD and of Avalanche's strategies.
    :param loss: ``"auto"``, ``"squared-error"`` or ``"cross-entropy"``.
    :param sleep: a night after each experience, with these parameters: for all, or one for each member.
    :param evaluate: the stream that is evaluated after each experience.
    :param device: where.
    :returns: the accuracies of each member, as of :class:`continual_ep.metrics.AccuracyMatrix`.
    :raises ConfigurationError: another number of seeds or rates than members, or data that cannot be fed by
        whole batches.
    """
    count = len(ensemble)
    rates = learning_rates if isinstance(learning_rates, Sequence) else [learning_rates] * count
    for what, values in (("seeds", seeds), ("learning rates", rates)):
        if len(values) != count:
            raise ConfigurationError(f"{len(values)} {what} were given for {count} members")
    ensemble.to(device)
    tests = [index_samples(e.dataset.eval(), device) for e in benchmark.streams[evaluate]]
    records = [AccuracyRecord(evaluate, [len(test) for test in tests]) for _ in seeds]
    optimizer = EnsembleSGD(ensemble.parameters(), rates, momentum)
    criterion = make_loss(loss, ensemble.member(0).readout)
    orders = [generator_from(f"order:{seed}") for seed in seeds]
    # Members see the same samples in orders of their own: one mean serves all.
    seen = RunningMean()
    for number, experience in enumerate(benchmark.train_stream):
        data = index_samples(experience.dataset.train(), device)
        ensemble.train()
        for epoch in range(epochs):
            for x, y in _batches(data, orders, batch_size):
                if epoch == 0:
                    seen.add(x[0].flatten(1))
                _learn(ensemble, optimizer, criterion, x, y)
        awake = _accuracies(ensemble, tests)
        asleep = awake
        if sleep is not None:
            mean = seen.mean.float()
            sleep_replay_ensemble(ensemble, mean, sleep, seeds=seeds, night=number + 1)
            asleep = _accuracies(ensemble, tests)
        for record, before, after in zip(records, awake.T, asleep.T, strict=True):
            record.add(number, before, after, sleep is not None)
    return records


def _learn(
    ensemble: Ensemble, optimizer: EnsembleSGD, criterion: NudgingLoss, x: Tensor, y: Tensor
) -> None:
    optimizer.zero_grad()
    criterion(ensemble(x), y).backward()
    optimizer.step()


def _batches(
    data: IndexedSamples, orders: Sequence[torch.Generator], batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """``(members, batch, ...)`` samples and labels, each member's in an order of its own."""
    drawn = torch.stack([torch.randperm(len(data), generator=order) for order in orders])
    for indices in drawn.split(batch_size, dim=1):
        x, y, *_ = data.batch(indices.reshape(-1))
        yield x.flatten(1).view(*indices.shape, -1), y.view(indices.shape)


def _accuracies(ensemble: Ensemble, tests: Sequence[IndexedSamples]) -> NDArray[np.float64]:
    """``(experiences, members)``."""
    ensemble.eval()
    rows = []
    with torch.no_grad():
        for test in tests:
            right = torch.zeros(len(ensemble), dtype=torch.int64)
            for indices in torch.arange(len(test)).split(EVALUATED_AT_ONCE):
                x, y, *_ = test.batch(indices)
                right += (ensemble(x.flatten(1)).argmax(-1) == y).sum(1).cpu()
            rows.append(right.double().numpy() / len(test))
    return np.stack(rows)
