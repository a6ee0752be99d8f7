"""Messages for keys that do not exist."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def unknown_key_message(key: Any, allowed: Iterable[str]) -> str:
    """Names the closest allowed key, and all of them."""
    names = list(allowed)
    close = get_close_matches(str(key), names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown key {str(key)!r}{hint} Allowed: {', '.join(names)}"


def refuse_unknown_keys(values: dict[Any, Any], allowed: list[str]) -> None:
    """:raises ValueError: when ``values`` has a key that is not allowed."""
    for key in values:
        if key not in allowed:
            raise ValueError(unknown_key_message(key, allowed))
