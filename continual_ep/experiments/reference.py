"""All options with their values, defaults and meaning, made from the models themselves."""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from continual_ep.experiments.config import RunConfig
from continual_ep.experiments.option_types import Options
from continual_ep.experiments.rule_options import RULES, RuleOptions


class Option(NamedTuple):
    """One option: dotted name, what it may be, default, meaning."""

    name: str
    values: str
    default: str
    meaning: str


def all_options() -> Iterator[Option]:
    """Every key of a configuration, group by group; the rules' own under ``learning.N``."""
    demo = RunConfig()
    for name, field in RunConfig.model_fields.items():
        value = getattr(demo, name)
        if name == "learning":
            yield from _rules()
        elif isinstance(value, Options):
            yield from _group(type(value), f"{name}.")
        else:
            yield _option(name, field)


def _group(model: type[Options], prefix: str) -> Iterator[Option]:
    for name, field in model.model_fields.items():
        group = next((a for a in get_args(field.annotation) if _is_group(a)), None)
        if isinstance(field.default, Options):
            yield from _group(type(field.default), f"{prefix}{name}.")
        elif group is not None:
            yield _option(prefix + name, field)._replace(values="the keys below, or null")
            yield from _group(group, f"{prefix}{name}.")
        else:
            yield _option(prefix + name, field)


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Options)


def _rules() -> Iterator[Option]:
    demo = ", ".join(entry.rule for entry in RunConfig().learning)
    meaning = "the learning rule of entry N; a name alone stands for an entry with defaults"
    yield Option("learning.N.rule", _either(RULES), demo, meaning)
    yield from _group(RuleOptions, "learning.N.")
    for rule, model in RULES.items():
        for name, field in model.model_fields.items():
            if name not in RuleOptions.model_fields and name != "rule":
                option = _option(f"learning.N.{name}", field)
                meaning = f"{rule}: {option.meaning}".removesuffix(": ")
                yield option._replace(meaning=meaning)


def _option(name: str, field: FieldInfo) -> Option:
    default = json.dumps(field.get_default(call_default_factory=True))
    return Option(name, _values(field.annotation), default, field.description or "")


def _either(words: Any) -> str:
    return ", ".join(str(word) for word in words)


def _values(annotation: Any) -> str:
    """A type in the words of a reader of YAML."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _values(arguments[0])
    if origin is list:
        return f"list of {_values(arguments[0])}"
    if origin is dict:
        return "keys and values"
    if arguments and re.search(r"Literal", str(origin)):
        return _either(arguments)
    if origin is Union or arguments:
        return " or ".join(_values(part) for part in arguments)
    names = {int: "integer", float: "number", str: "text", bool: "true, false", type(None): "null"}
    return names.get(annotation, str(annotation))


def markdown_table() -> str:
    """The table of the documentation."""
    lines = ["| option | values | default | meaning |", "|---|---|---|---|"]
    for option in all_options():
        cells = (f"`{option.name}`", option.values, f"`{option.default}`", option.meaning)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
