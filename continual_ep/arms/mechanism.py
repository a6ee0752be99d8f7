"""A mechanism against forgetting: its options, what it adds to the training, and what it keeps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor

from continual_ep.arms.assembly import Assembly
from continual_ep.options import Options, plain_values

#: Parts of the training of which each can be taken by one mechanism of an arm only.
Part = Literal["trainer", "data", "loss", "gradient", "answers"]

#: What two mechanisms would both do, for the message that refuses them.
PARTS: dict[Part, str] = {
    "trainer": "replace the training loop",
    "data": "choose the data that are trained on",
    "loss": "replace the loss",
    "gradient": "project the gradient",
    "answers": "change how the network answers",
}


class Needs(NamedTuple):
    """What a mechanism uses beyond the training itself.

    :param labels: labels, for more than the loss of the batch.
    :param boundaries: when an experience ends.
    :param samples: samples of earlier experiences.
    """

    labels: bool
    boundaries: bool
    samples: bool


#: What sequential training needs.
NOTHING = Needs(labels=False, boundaries=False, samples=False)


class Stateful:
    """The state of a plugin that cannot save itself, such as Avalanche's.

    :param save: returns tensors, numbers, texts, lists and dictionaries.
    :param load: takes what ``save`` returned.
    :param kept_bytes: bytes that are kept between experiences; default: those of all tensors saved.
    """

    def __init__(
        self,
        save: Callable[[], dict[str, Any]],
        load: Callable[[dict[str, Any]], None],
        kept_bytes: Callable[[], int] | None = None,
    ) -> None:
        self._save, self._load, self._kept_bytes = save, load, kept_bytes

    def state_dict(self) -> dict[str, Any]:
        """What the mechanism has to know to go on."""
        return self._save()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._load(state)

    def kept_bytes(self) -> int:
        """Bytes kept between experiences."""
        return tensor_bytes(self._save()) if self._kept_bytes is None else self._kept_bytes()


@dataclass(frozen=True)
class Mechanism(Options, ABC):
    """A mechanism against forgetting: a group of options that knows how to install itself.

    A subclass is a frozen dataclass in a file of its own with a line in
    :data:`continual_ep.arms.MECHANISMS`. Its docstring gives formula, source and deviations.
    """

    #: The option that ``name:value`` sets; None if there is none.
    main: ClassVar[str | None] = None
    #: What it uses beyond the training itself.
    needs: ClassVar[Needs] = Needs(labels=False, boundaries=True, samples=False)
    #: What of the training it takes for itself.
    takes: ClassVar[frozenset[Part]] = frozenset()
    #: Names of mechanisms that it can be combined with; None for all that take other parts.
    combines_with: ClassVar[frozenset[str] | None] = None
    #: Whether it answers without a trained network.
    is_reference: ClassVar[bool] = False
    #: BibTeX keys of :mod:`continual_ep.citations`.
    sources: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def with_main(cls, values: Mapping[str, Any], value: Any) -> dict[str, Any]:
        """The options with the value that stands behind the colon of ``name:value``."""
        return {**values, str(cls.main): value}

    def settings(self) -> dict[str, Any]:
        """The options as plain values."""
        values: dict[str, Any] = plain_values(self)
        return values

    def refusal(self, rule: Any, network: Any) -> str | None:
        """Why it cannot work with a learner, or None.

        :param rule: the learning rule; :param network: the options of the network.
        """
        return None

    def conflict(self, other: "Mechanism") -> str | None:
        """Why it cannot be combined with another mechanism, or None."""
        return None

    @abstractmethod
    def install(self, assembly: Assembly) -> None:
        """Add plugins, a loss or a training loop.

        :raises ConfigurationError: for a network, loss or stream that it cannot work with.
        """


def tensor_bytes(state: Any) -> int:
    """Bytes of all tensors in nested dictionaries and lists."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(tensor_bytes(value) for value in state.values())
    if isinstance(state, list | tuple):
        return sum(tensor_bytes(value) for value in state)
    return 0


def kept_bytes(state: Any) -> int:
    """Bytes that a mechanism keeps between experiences, measured from its state.

    :param state: one of :attr:`Assembly.states`.
    """
    if hasattr(state, "kept_bytes"):
        return int(state.kept_bytes())
    return tensor_bytes(state.state_dict())
