"""What a cell tells whoever waits for it."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Kind = Literal["started", "epoch", "experience", "finished", "failed", "crashed", "warning"]


class Event(NamedTuple):
    """One piece of news.

    :param cell: number of the cell.
    :param kind: ``"started"`` (``done``: experiences of earlier sessions), ``"epoch"``,
        ``"experience"`` (``number``, ``awake``, ``asleep``, ``slept``, ``seconds``), ``"finished"``,
        ``"failed"`` (``message``: something the user can put right), ``"crashed"`` (``message``: a
        traceback), ``"warning"`` (``message``).
    :param data: as listed.
    """

    cell: int
    kind: Kind
    data: dict[str, Any]


Listener = Callable[[Event], None]
