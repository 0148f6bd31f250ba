"""calm-train's YAML files: sections of plain values, each key once.

Tags, anchors and aliases are refused: a few lines of them can stand for gigabytes.
"""

import re
from typing import Any

import yaml

from calmgrad.errors import FileError, UsageError
from calmgrad.settings_schema import YAML_KEYS, shown, unknown_key

SECTIONS = ("model", "training", "continual")
WITHOUT_EFFECT = ("training.amp", "training.gradient_checkpointing")
MAX_DEPTH = 8
MAX_NODES = 2000  # keys and values; a full configuration has about a hundred

# PyYAML follows YAML 1.1, where 1e-3 is a text: a float must have a point and a signed exponent.
_EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
_MERGE = "tag:yaml.org,2002:merge"


def read_sections(text: str, name: str) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """The content of calm-train's file of this name, under our keys.

    Returns:
        Values by our keys; what the file calls these keys; a line for each key without effect.

    Raises:
        FileError: it is not YAML, or more of it than such a file needs.
        UsageError: an unknown key.
    """
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    notes = []
    for section, content in _mapping(parse(text, name), name).items():
        if section not in SECTIONS:
            raise UsageError(f"{name}: {unknown_key(str(section), [*SECTIONS, *YAML_KEYS])}")
        content = _mapping(content, f"{name}: {section}")
        if section == "continual":
            values[section] = content or None
            continue
        for short, value in content.items():
            key = f"{section}.{short}"
            if key in WITHOUT_EFFECT:
                notes += [f"{key}: has no effect on the CPU"] if value else []
            elif key not in YAML_KEYS:
                raise UsageError(f"{name}: {unknown_key(key, [*YAML_KEYS, *WITHOUT_EFFECT])}")
            else:
                values[YAML_KEYS[key]] = value
                names[YAML_KEYS[key]] = key
    return values, names, notes


def _mapping(value: object, where: str) -> dict[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected keys with values, got {shown(value)}")
    return value


class _Refused(yaml.MarkedYAMLError):  # type: ignore[misc]
    """What YAML allows and we do not."""

    def __init__(self, what: str, mark: Any) -> None:
        super().__init__(problem=what, problem_mark=mark)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader, with the limits above."""

    nodes = 0
    depth = 0

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level == MAX_DEPTH:  # the scanner runs far ahead of the composer
            raise _Refused("is nested too deeply", self.get_mark())
        super().fetch_flow_collection_start(token)

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _Refused(f"more than {MAX_NODES} keys and values", event.start_mark)
        if getattr(event, "anchor", None) is not None:
            raise _Refused("anchors (&) and aliases (*) are not supported", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _Refused("tags (!) are not supported", event.start_mark)
        if self.depth == MAX_DEPTH:
            raise _Refused("is nested too deeply", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                raise _Refused("expected a name before the colon", key.start_mark)
            if key.value in seen:
                raise _Refused(f"key {key.value[:40]!r} is given twice", key.start_mark)
            seen.add(key.value)
        # Names stay as they are written, whatever else YAML takes `on` or `1` for.
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def parse(text: str, name: str) -> object:
    """What a YAML document of this name holds; None if it is empty.

    Raises:
        FileError: it is not YAML, or more than a configuration needs.
    """
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise FileError(f"{name}: {where}{what}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise FileError(f"{name}: line {line}: {error.reason}") from error
    except (ValueError, OverflowError) as error:  # 2024-99-99, 0b_, a number of 5000 digits
        raise FileError(f"{name}: a value that cannot be read: {error}") from error
