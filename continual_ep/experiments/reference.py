"""All options with their values, defaults and meaning, made from the groups themselves."""

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from continual_ep.arms import MECHANISMS, mechanism_class
from continual_ep.errors import ConfigurationError
from continual_ep.experiments.config import RunConfig
from continual_ep.options import Choice, Options, group_of, option_fields, plain_values


class Option(NamedTuple):
    """One option: dotted name, what it may be, default, meaning."""

    name: str
    values: str
    default: str
    meaning: str


class Section(NamedTuple):
    """The options of one thing that is configured, such as a learning rule."""

    title: str
    meaning: str
    options: list[Option]


def sections() -> Iterator[Section]:
    """Every key of a configuration; what belongs to a rule or a kind of network stands there alone."""
    rest: list[Option] = []
    hints = get_type_hints(RunConfig, include_extras=True)
    for field in option_fields(RunConfig):
        group = group_of(hints[field.name])
        # An entry of a list of groups is numbered, as in --set learning.0.beta=0.1.
        prefix = f"{field.name}.N." if get_origin(hints[field.name]) is list else f"{field.name}."
        if field.name == "mechanisms":
            yield Section(field.name, f"{field.metadata['help']}; see docs/arms.md", [])
            for name in (name for name in MECHANISMS if name != "sleep"):
                mechanism = mechanism_class(name)
                entries = list(_options(mechanism, f"mechanisms.{name}."))
                yield Section(f"mechanisms: {name}", _meaning(mechanism), entries)
            continue
        if group is None:
            rest.append(_option("", field, hints[field.name]))
            continue
        yield Section(field.name, field.metadata["help"], list(_options(group, prefix)))
        if issubclass(group, Choice):
            yield from _choices(group, field.name, prefix)
    yield Section("the run", "what is run, and where", rest)


def _choices(group: type[Choice], place: str, prefix: str) -> Iterator[Section]:
    """A section for each choice; one that extends another lists what it adds or changes."""
    choices = group.choices()
    for name, options in choices.items():
        extended = {n: c for n, c in choices.items() if c is not options and issubclass(options, c)}
        known = [field for base in extended.values() for field in option_fields(base)]
        meaning = _meaning(options)
        if extended:
            meaning += f" Also the options of {' and '.join(extended)}."
        title = f"{place}, {group.key}: {name}"
        yield Section(title, meaning, list(_options(options, prefix, known)))


def all_options() -> Iterator[Option]:
    """Every option of every section."""
    for section in sections():
        yield from section.options


def _options(
    group: type[Options], prefix: str, known: Sequence[dataclasses.Field[Any]] = ()
) -> Iterator[Option]:
    hints = get_type_hints(group, include_extras=True)
    for field in option_fields(group):
        if field in known:
            continue
        nested = group_of(hints[field.name])
        if nested is not None and issubclass(group, nested):
            nested = None  # a preset may be given as such a group; in a file it is a name
        option = _option(prefix, field, hints[field.name])
        if nested is None and issubclass(group, Choice) and field.name == group.key:
            yield option._replace(values=", ".join(group.choices()), default=_names(group, field))
        elif nested is None:
            yield option
        else:
            if type(None) in get_args(hints[field.name]):
                yield option._replace(values="the keys below, or null")
            yield from _options(nested, f"{prefix}{field.name}.")


def _names(group: type[Choice], field: dataclasses.Field[Any]) -> str:
    """The default of a choice; where there is none, the names of the demo."""
    if field.default is not dataclasses.MISSING:
        return json.dumps(field.default)
    entries = (getattr(RunConfig(), f.name) for f in option_fields(RunConfig))
    demo = next(e for e in entries if isinstance(e, list) and isinstance(e[0], group))
    return ", ".join(getattr(entry, group.key) for entry in demo)


def _meaning(group: type[Options]) -> str:
    """The first line of the docstring without the markup of references."""
    line = (inspect.getdoc(group) or "").partition("\n")[0]
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", line).replace("``", "`")


def _option(prefix: str, field: dataclasses.Field[Any], annotation: Any) -> Option:
    made = field.default_factory
    default = field.default if made is dataclasses.MISSING else made()
    default = None if default is dataclasses.MISSING else plain_values(default)
    help = field.metadata["help"]
    return Option(prefix + field.name, _values(annotation), json.dumps(default), help)


#: Types of YAML values in words.
WORDS: dict[Any, str] = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true, false",
    type(None): "null",
    Any: "any",
}


def _values(annotation: Any) -> str:
    """A type in the words of a reader of YAML; empty for functions and objects."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _values(arguments[0])
    if origin in (list, tuple):
        return f"list of {_values(arguments[0])}"
    if origin is dict:
        return "keys and values"
    if origin is Literal:
        return ", ".join(str(word) for word in arguments)
    if origin in (Union, UnionType):
        return " or ".join(words for part in arguments if (words := _values(part)))
    return WORDS.get(annotation, "")


def markdown_table(part: str | None = None) -> str:
    """The tables of the documentation.

    :param part: only sections whose title begins with this, such as ``"learning"``.
    :raises ConfigurationError: when there is no such section.
    """
    chosen = [s for s in sections() if part is None or s.title.startswith(part)]
    if not chosen:
        names = [field.name for field in option_fields(RunConfig)]
        raise ConfigurationError(f"no options begin with {part!r}; try one of {', '.join(names)}")
    return "\n\n".join(_table(section) for section in chosen)


def _table(section: Section) -> str:
    lines = [f"**{section.title}**: {section.meaning}"]
    if section.options:
        lines += ["", "| option | values | default | meaning |", "|---|---|---|---|"]
    for option in section.options:
        cells = (f"`{option.name}`", option.values, f"`{option.default}`", option.meaning)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
