"""What replay keeps between experiences, as tensors: for checkpoints, and to be counted."""

from collections.abc import Mapping
from typing import Any

import torch
from avalanche.benchmarks.utils.utils import concat_datasets

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Stateful, tensor_bytes
from continual_ep.avalanche_internals import task_labelled
from continual_ep.errors import CheckpointError
from continual_ep.plugins.replay_batches import samples_of
from continual_ep.streams.tensor_data import TensorData


def samples_bytes(dataset: Any) -> int:
    """Bytes of the inputs, labels and task labels of a data set whose samples are of one size."""
    if not len(dataset):
        return 0
    return len(dataset) * tensor_bytes([torch.as_tensor(part) for part in dataset[0]])


def memory_state(plugin: Any, assembly: Assembly) -> Stateful:
    """The state of a plugin with an :class:`~continual_ep.plugins.exemplars.ExemplarMemory`.

    It holds the places of exemplars in the stream. What is kept are their samples, and the tensors of
    the state that are neither places nor a generator.
    """

    def load(state: dict[str, Any]) -> None:
        plugin.load_state_dict(state, assembly.benchmark)

    def kept() -> int:
        known = {"generator", *plugin.memory.state_dict()}
        more = [value for key, value in plugin.state_dict().items() if key not in known]
        return samples_bytes(plugin.memory.buffer) + tensor_bytes(more)

    return Stateful(plugin.state_dict, load, kept)


def exemplars_state(memory: Any, assembly: Assembly) -> Stateful:
    """The state of an :class:`~continual_ep.plugins.exemplars.ExemplarMemory` of a strategy."""

    def load(state: dict[str, Any]) -> None:
        memory.load_state_dict(state, assembly.benchmark)

    return Stateful(memory.state_dict, load, lambda: samples_bytes(memory.buffer))


class CumulativeState:
    """The data that Avalanche's ``Cumulative`` collects, as how many experiences they are from."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.strategy: Any = None

    def connect(self, strategy: Any) -> None:
        """Take the strategy, once it exists."""
        self.strategy = strategy

    def state_dict(self) -> dict[str, Any]:
        """The number of samples; a whole number of experiences has them."""
        return {"samples": 0 if self.strategy.dataset is None else len(self.strategy.dataset)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Collect the data of so many samples again.

        :raises CheckpointError: for a stream whose first experiences have not that many.
        """
        dataset: Any = None
        for experience in self.stream:
            if state["samples"] == (0 if dataset is None else len(dataset)):
                break
            # One by one, as the strategy does, so that the order is the same.
            data = experience.dataset
            dataset = data if dataset is None else concat_datasets([dataset, data])
        if state["samples"] != (0 if dataset is None else len(dataset)):
            raise CheckpointError(
                f"the first experiences of this stream have not {state['samples']} samples: build "
                "it with the same data, seed and limits as before"
            )
        self.strategy.dataset = dataset

    def kept_bytes(self) -> int:
        """Bytes of all data collected."""
        return 0 if self.strategy.dataset is None else samples_bytes(self.strategy.dataset)


def agem_state(plugin: Any) -> Stateful:
    """The memories of Avalanche's ``AGEMPlugin``, one for each experience.

    Its endless loader starts anew after each experience, so that it has no position to be saved.
    """

    def save() -> dict[str, Any]:
        return {"memories": [samples_of(memory) for memory in plugin.buffers]}

    def load(state: dict[str, Any]) -> None:
        memories = [
            task_labelled(TensorData(x, y), task.tolist()) for x, y, task in state["memories"]
        ]
        plugin.buffers = memories[:-1]
        if memories:
            plugin.update_memory(memories[-1])  # appends it and makes the loader

    return Stateful(save, load)


def gem_state(plugin: Any) -> Stateful:
    """The memories of Avalanche's ``GEMPlugin``, by experience."""
    names = ("memory_x", "memory_y", "memory_tid")

    def save() -> dict[str, Any]:
        return {name: dict(getattr(plugin, name)) for name in names}

    def load(state: dict[str, Any]) -> None:
        for name in names:
            setattr(plugin, name, dict(state[name]))

    return Stateful(save, load)
