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
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

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


def option(
    default: Any, help: str, *, convert: Callable[[Any], Any] | None = None, **constraints: Any
) -> Any:
    """A field of a group of options.

    :param default: immutable, or a class or function that makes it without arguments.
    :param help: what it is, in a few words, for tables and the command line.
    :param convert: turns a shorthand into the value, before that is checked.
    :param constraints: ``gt``, ``ge``, ``lt``, ``le`` of every number in it, ``min_length``,
        ``pattern``, as of ``pydantic.Field``; ``kw_only`` as of ``dataclasses.field``. Those of a part
        of the annotation alone are written as ``Annotated[int, ("ge", 1)]``.
    """
    keywords = {"kw_only": constraints.pop("kw_only")} if "kw_only" in constraints else {}
    metadata = {"help": help, "convert": convert, "constraints": constraints}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata, **keywords)
    return dataclasses.field(default=default, metadata=metadata, **keywords)


class Options:
    """Base of a frozen dataclass whose values are checked and converted when it is made.

    :raises ConfigurationError: names the option, what is allowed and what was given.
    """

    def __post_init__(self) -> None:
        problems = self._checked_fields()
        if problems:
            raise OptionsError(type(self).__name__, problems)
        self.check_combination()

    def check_combination(self) -> None:
        """Refuse values that cannot work together, each being possible on its own.

        :raises ConfigurationError: as :class:`OptionsError` or with a message of its own.
        """

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Plain values with those that follow from others; as they are, unless a group says more."""
        return values

    def _checked_fields(self) -> list[tuple[str, str]]:
        """Convert all fields in place; what is wrong with which."""
        group: Any = type(self)
        hints, problems = _hints(group), []
        for field in option_fields(group):
            try:
                value = _converted(group, field, hints[field.name], getattr(self, field.name))
                object.__setattr__(self, field.name, value)
            except OptionsError as error:
                problems += error.problems
        return problems


@dataclasses.dataclass(frozen=True)
class Choice(Options):
    """One of several by its name, with its options beside those that all have.

    As plain values it is one mapping, ``{"rule": "bptt", "label": "mine", "free_steps": 9}``, or a name.

    :param options: of what is chosen, as a group or a mapping; None for the defaults.
    """

    #: The field that holds the name.
    key: ClassVar[str]

    options: Any = dataclasses.field(default=None, kw_only=True)

    @classmethod
    @abstractmethod
    def choices(cls) -> Mapping[str, type[Options]]:
        """The options of all that can be chosen, by name."""

    @classmethod
    def chosen(cls, name: Any) -> type[Options]:
        """The options of one.

        :raises OptionsError: for an unknown name, with the closest valid one.
        """
        choices = cls.choices()
        if not isinstance(name, str) or name not in choices:
            text = (
                f"{name!r} is unknown{_closest(name, choices)} Choose one of {', '.join(choices)}"
            )
            raise OptionsError(cls.__name__, [(cls.key, text)])
        return choices[name]

    def _checked_fields(self) -> list[tuple[str, str]]:
        problems = super()._checked_fields()
        try:
            group = self.chosen(getattr(self, self.key))
            made = options_from(group, {} if self.options is None else self.options)
            object.__setattr__(self, "options", made)
        except OptionsError as error:
            problems += error.problems
        return problems

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values with those of the choice in a mapping of their own."""
        common = [field.name for field in option_fields(cls)]
        name = values.get(cls.key, _default(cls, cls.key))
        if name is None:
            text = f"{cls.key} is missing; choose one of {', '.join(cls.choices())}"
            raise OptionsError(cls.__name__, [("", text)])
        names = [field.name for field in option_fields(cls.chosen(name))]
        problems = [
            ("", cls._unknown(key, name, [*common, *names]))
            for key in values
            if key not in common and key not in names
        ]
        if problems:
            raise OptionsError(cls.__name__, problems)
        parted: dict[str, Any] = {key: values[key] for key in values if key in common}
        return {**parted, "options": {key: values[key] for key in values if key in names}}

    @classmethod
    def _unknown(cls, key: Any, name: str, allowed: list[str]) -> str:
        others = [
            other
            for other, group in cls.choices().items()
            if key in (field.name for field in option_fields(group))
        ]
        if not others:
            return unknown_key_message(key, allowed)
        return f"{key!r} is an option of {cls.key} {', '.join(others)}, not of {name}"


def options_from(group: type[T], values: Any) -> T:
    """Make a group from plain values, as a YAML file holds them.

    :param values: a mapping; groups within it are mappings, too. A name alone is enough for a choice.
    :raises OptionsError: for unknown keys, with the closest valid name, and for wrong values.
    """
    if isinstance(values, group):
        return values
    kind: Any = group
    if issubclass(kind, Choice) and isinstance(values, str):
        values = {kind.key: values}
    if not isinstance(values, Mapping):
        raise OptionsError(
            group.__name__, [("", f"a mapping of options is needed (given: {values!r})")]
        )
    values = kind.completed(values)
    names = [field.name for field in dataclasses.fields(kind)]
    problems = [("", unknown_key_message(key, names)) for key in values if key not in names]
    try:
        made: T = kind(**{key: value for key, value in values.items() if key in names})
    except OptionsError as error:
        problems += error.problems
    except ConfigurationError as error:
        problems = problems or [("", str(error))]
    if problems:
        raise OptionsError(group.__name__, problems)
    return made


def option_fields(group: type) -> list[dataclasses.Field[Any]]:
    """The fields of a group that are options, in their order."""
    return [field for field in dataclasses.fields(group) if "help" in field.metadata]


def plain_values(group: Any) -> Any:
    """The values of a group as a YAML file holds them: dictionaries, lists, numbers, texts."""
    if isinstance(group, Options):
        names = [field.name for field in option_fields(type(group))]
        values = {name: plain_values(getattr(group, name)) for name in names}
        return {**values, **plain_values(group.options)} if isinstance(group, Choice) else values
    if isinstance(group, tuple | list):
        return [plain_values(item) for item in group]
    if isinstance(group, dict):
        return {key: plain_values(value) for key, value in group.items()}
    return group


def unknown_key_message(key: Any, allowed: Iterable[str]) -> str:
    """Name the closest allowed key, and all of them."""
    names = list(allowed)
    return f"unknown key {str(key)!r}{_closest(key, names)} Allowed: {', '.join(names)}"


def _closest(key: Any, names: Iterable[str]) -> str:
    close = get_close_matches(str(key), list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."


def group_of(annotation: Any) -> type | None:
    """The group of options that an annotation such as ``Group | None`` holds; None for others."""
    candidates = (annotation, *get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Options)), None)


def _default(group: type, name: str) -> Any:
    """The default of a field; None where there is none."""
    field = next(field for field in dataclasses.fields(group) if field.name == name)
    return None if field.default is dataclasses.MISSING else field.default


def _converted(owner: type, field: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    convert = field.metadata.get("convert")
    try:
        value = value if convert is None else convert(value)
    except (ValueError, ConfigurationError) as error:
        raise OptionsError(owner.__name__, [(field.name, str(error))]) from None
    nested = group_of(hint)
    named = isinstance(value, str) and nested is not None and issubclass(nested, Choice)
    if nested is not None and (named or isinstance(value, Mapping)):
        return _nested(owner, field.name, nested, value)
    if get_origin(hint) is list and isinstance(value, list) and group_of(get_args(hint)[0]):
        value = _groups(owner, field.name, get_args(hint)[0], value)
    from pydantic import ValidationError

    try:
        return _adapter(owner, field.name).validate_python(_plain_number(value))
    except ValidationError as error:
        raise OptionsError(owner.__name__, _problems(field.name, value, error.errors())) from None


def _nested(owner: type, place: str, group: type, value: Any) -> Any:
    try:
        return options_from(group, value)
    except OptionsError as error:
        problems = [(f"{place}.{name}".rstrip("."), text) for name, text in error.problems]
        raise OptionsError(owner.__name__, problems) from None


def _groups(owner: type, place: str, group: type, values: list[Any]) -> list[Any]:
    made, problems = [], []
    for number, value in enumerate(values):
        try:
            made.append(_nested(owner, f"{place}.{number}", group, value))
        except OptionsError as error:
            problems += error.problems
    if problems:
        raise OptionsError(owner.__name__, problems)
    return made


def _problems(name: str, value: Any, details: Iterable[Any]) -> list[tuple[str, str]]:
    """One for each value that is wrong; of a union, pydantic names the objection of each branch."""
    entries = [(d, [part for part in d["loc"] if isinstance(part, int)]) for d in details]
    # Of a list, what its entries lack says more than that it is none of the other branches.
    deepest = max(len(place) for _, place in entries)
    problems: dict[str, list[str]] = {}
    for detail, place in entries:
        if len(place) < deepest:
            continue
        texts = problems.setdefault(".".join([name, *map(str, place)]), [])
        text = detail["msg"].removeprefix("Value error, ")
        text = text.replace("Input should be ", "must be ", 1)
        if text not in texts and text.removeprefix("must be ") not in texts:
            texts.append(text.removeprefix("must be ") if texts else text)
    return [(place, f"{', or '.join(t)} (given: {value!r})") for place, t in problems.items()]


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
            return _constrained(arguments[0], {**constraints, **dict(arguments[1:])})
        if part is Any:
            return part
        if part is bool:
            return StrictBool
        if part is int:
            return Annotated[int, BeforeValidator(_whole_number), Field(**bounds)]
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
        raise ValueError("must be a number, not a truth value")
    return value


def _whole_number(value: Any) -> Any:
    # In a union with float, pydantic would take 1.0 for the integer 1.
    if isinstance(value, float):
        raise ValueError("must be a valid integer")
    return _no_truth_value(value)
