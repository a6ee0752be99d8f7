"""Options, defined once: a dataclass is the schema of its constructor, YAML, command line and docs.

A group of options is a dataclass that inherits from :class:`Options` and declares its fields by
:func:`option`:

.. code-block:: python

    @dataclass(frozen=True)
    class Downscaling(Options):
        factor: float = option(0.9, "of positive weights in a night", gt=0, le=1)

``Downscaling(factor=2)`` and ``{"factor": 2}`` in a file end in the same
:class:`~continual_ep.errors.ConfigurationError`. pydantic checks and converts the values; it is
imported when the first group is made, so that importing the package stays cheap.
"""

import dataclasses
import types
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from continual_ep.errors import ConfigurationError

T = TypeVar("T")


class OptionsError(ConfigurationError):
    """Options that cannot work.

    :param problems: pairs of the option's dotted name (empty for the group) and what is wrong.
    """

    def __init__(self, group: str, problems: Iterable[tuple[str, str]]) -> None:
        self.problems = list(problems)
        lines = [f"{name}: {text}" if name else text for name, text in self.problems]
        text = lines[0] if len(lines) == 1 else "\n" + "\n".join(f"  {line}" for line in lines)
        super().__init__(f"{group}: {text}")


def option(default: Any, help: str, **constraints: Any) -> Any:
    """A field of a group of options.

    :param default: immutable, or a class or function that makes it without arguments.
    :param help: what it is, in a few words, for tables and the command line.
    :param constraints: ``gt``, ``ge``, ``lt``, ``le`` of every number in it, ``min_length``,
        ``pattern``, as of ``pydantic.Field``; ``kw_only`` as of ``dataclasses.field``. Those of a part
        of the annotation alone are written as ``Annotated[int, {"ge": 1}]``.
    """
    keywords = {"kw_only": constraints.pop("kw_only")} if "kw_only" in constraints else {}
    metadata = {"help": help, "constraints": constraints}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata, **keywords)
    return dataclasses.field(default=default, metadata=metadata, **keywords)


class Options:
    """Base of a frozen dataclass whose values are checked and converted when it is made.

    :raises ConfigurationError: names the option, what is allowed and what was given.
    """

    def __post_init__(self) -> None:
        group: Any = type(self)
        hints, problems = _hints(group), []
        for field in option_fields(group):
            try:
                value = _converted(group, field, hints[field.name], getattr(self, field.name))
                object.__setattr__(self, field.name, value)
            except OptionsError as error:
                problems += error.problems
        if problems:
            raise OptionsError(group.__name__, problems)
        self.check_combination()

    def check_combination(self) -> None:
        """Refuse values that cannot work together, each being possible on its own.

        :raises ConfigurationError: as :class:`OptionsError` or with a message of its own.
        """


def options_from(group: type[T], values: Any) -> T:
    """Make a group from plain values, as a YAML file holds them.

    :param values: a mapping; groups within it are mappings, too.
    :raises OptionsError: for unknown keys, with the closest valid name, and for wrong values.
    """
    if isinstance(values, group):
        return values
    if not isinstance(values, Mapping):
        raise OptionsError(
            group.__name__, [("", f"a mapping of options is needed (given: {values!r})")]
        )
    names = [field.name for field in option_fields(group)]
    unknown = [(str(key), unknown_key_message(key, names)) for key in values if key not in names]
    if unknown:
        raise OptionsError(group.__name__, [("", text) for _, text in unknown])
    try:
        return group(**values)
    except OptionsError:
        raise
    except ConfigurationError as error:
        raise OptionsError(group.__name__, [("", str(error))]) from None


def option_fields(group: type) -> list[dataclasses.Field[Any]]:
    """The fields of a group that are options, in their order."""
    return [field for field in dataclasses.fields(group) if "help" in field.metadata]


def plain_values(group: Any) -> Any:
    """The values of a group as a YAML file holds them: dictionaries, lists, numbers, texts."""
    if dataclasses.is_dataclass(group):
        names = [field.name for field in option_fields(type(group))]
        return {name: plain_values(getattr(group, name)) for name in names}
    if isinstance(group, tuple | list):
        return [plain_values(item) for item in group]
    if isinstance(group, dict):
        return {key: plain_values(value) for key, value in group.items()}
    return group


def unknown_key_message(key: Any, allowed: Iterable[str]) -> str:
    """Name the closest allowed key, and all of them."""
    names = list(allowed)
    close = get_close_matches(str(key), names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown key {str(key)!r}{hint} Allowed: {', '.join(names)}"


def group_of(annotation: Any) -> type | None:
    """The group of options that an annotation such as ``Group | None`` holds; None for others."""
    candidates = (annotation, *get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Options)), None)


def _converted(owner: type, field: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    nested = group_of(hint)
    if nested is not None and isinstance(value, Mapping):
        try:
            return options_from(nested, value)
        except OptionsError as error:
            problems = [(f"{field.name}.{name}".rstrip("."), text) for name, text in error.problems]
            raise OptionsError(owner.__name__, problems) from None
    from pydantic import ValidationError

    try:
        return _adapter(owner, field.name).validate_python(_plain_number(value))
    except ValidationError as error:
        texts = []
        for detail in error.errors():
            text = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            if text not in texts:
                texts.append(text)
        text = f"must be {', or '.join(texts)} (given: {value!r})"
        raise OptionsError(owner.__name__, [(field.name, text)]) from None


def _plain_number(value: Any) -> Any:
    """Python's number in place of a NumPy scalar or a tensor of one value; others as they are."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value


@cache
def _hints(group: type) -> dict[str, Any]:
    return get_type_hints(group, include_extras=True)


@cache
def _adapter(group: type, name: str) -> Any:
    from pydantic import TypeAdapter

    field = next(f for f in dataclasses.fields(group) if f.name == name)
    return TypeAdapter(_constrained(_hints(group)[name], field.metadata["constraints"]))


def _constrained(annotation: Any, constraints: dict[str, Any]) -> Any:
    """The annotation with the constraints on each number, text and list in it.

    A truth value is no number, and infinity and NaN are no values of an option.
    """
    from pydantic import BeforeValidator, Field, InstanceOf, StrictBool

    bounds = {key: value for key, value in constraints.items() if key in ("gt", "ge", "lt", "le")}
    rest = {key: value for key, value in constraints.items() if key not in bounds}

    def inside(part: Any) -> Any:
        origin, arguments = get_origin(part), get_args(part)
        if origin is Annotated:  # constraints of this part alone, as of option()
            return _constrained(arguments[0], {**constraints, **arguments[1]})
        if part is Any:
            return part
        if part is bool:
            return StrictBool
        if part is int:
            return Annotated[int, BeforeValidator(_no_truth_value), Field(**bounds)]
        if part is float:
            finite = Field(allow_inf_nan=False, **bounds)
            return Annotated[float, BeforeValidator(_no_truth_value), finite]
        if part is str:
            return Annotated[str, Field(**{k: v for k, v in rest.items() if k == "pattern"})]
        if isinstance(part, type) and origin is None and part.__module__ != "builtins":
            instance: Any = InstanceOf
            return instance[part]
        if origin is Literal or not arguments:
            return part
        parts = tuple(a if a is Ellipsis else inside(a) for a in arguments)
        if origin in (Union, types.UnionType):
            return Union[parts]  # noqa: UP007 # made at run time
        rebuilt: Any = origin[parts]
        lengths = {k: v for k, v in rest.items() if k in ("min_length", "max_length")}
        return Annotated[rebuilt, Field(**lengths)] if lengths else rebuilt

    return inside(annotation)


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number, not a truth value")
    return value
