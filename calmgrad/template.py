"""The template DSL: how the fields of a context become one token sequence (FORMATS §5).

A template is entries separated by `;`:

    BOS                                    a token alone
    CWD:cwd                                frame: CWD bytes END
    WORD:input/ATN/POS:pos                 frame with subtokens
    ENV:env*                               repeated: one frame an item
    HIST(cmd):history*/EXIT:exit           repeated with subtokens; an item is {"cmd": …, "exit": …}
    COMP:completions+                      list: COMP bytes NEXT bytes … END

The last frame after the last ATN is *terminal*: it has no END, since a model goes on there.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from calmgrad.tokenizer import ATN, BOS, BY_NAME, END, EOS, NEXT, PAD, encode

MAX_LIST_ITEMS = 15
BARE_SUBTOKENS = (BOS, EOS, ATN, PAD)

_TOKEN, _FIELD = "([A-Z]+)", "([A-Za-z_][A-Za-z0-9_]*)"
_REPEATED_WITH_SUBTOKENS = re.compile(rf"{_TOKEN}\({_FIELD}\):{_FIELD}\*((?:/[^/]+)*)")
_FRAME_WITH_SUBTOKENS = re.compile(rf"{_TOKEN}:{_FIELD}((?:/[^/]+)+)")
_FRAME = re.compile(rf"{_TOKEN}:{_FIELD}([+*]?)")
_SUBTOKEN = re.compile(rf"{_TOKEN}(?::{_FIELD})?")

Value = str | bytes | int


@dataclass(frozen=True, slots=True)
class Subtoken:
    """A token inside a frame, before the bytes of its field; without a field it stands alone."""

    token: int
    field: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a template.

    Attributes:
        kind: "bare", "frame", "repeated" or "list".
        token: what it begins with.
        field: the field it shows; None for a bare token.
        primary: repeated entries with subtokens: the key of an item's main value.
        subtokens: of a frame or a repeated entry.
        terminal: the frame a model goes on with.
    """

    kind: str
    token: int
    field: str | None = None
    primary: str | None = None
    subtokens: tuple[Subtoken, ...] = ()
    terminal: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys an item of a repeated entry may have."""
        primary = [self.primary] if self.primary else []
        return (*primary, *(sub.field for sub in self.subtokens if sub.field))


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template; without entries it stands for BOS and the bytes of `input`."""

    entries: tuple[Entry, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """Field names in template order, those of subtokens too, each once."""
        names = []
        for entry in self.entries:
            names += [entry.field, *(sub.field for sub in entry.subtokens)]
        return tuple(dict.fromkeys(name for name in names if name))

    @property
    def text_fields(self) -> tuple[str, ...]:
        """The fields whose value is one text; no lists, and nothing inside repeated entries."""
        names, lists = [], set()
        for entry in self.entries:
            if entry.kind == "frame":
                names += [entry.field, *(sub.field for sub in entry.subtokens)]
            else:
                lists.add(entry.field)
        return tuple(dict.fromkeys(name for name in names if name and name not in lists))

    def build(self, fields: Mapping[str, Any], l_max: int = 768, eos: bool = False) -> list[int]:
        """Tokens of a context; arguments and errors as in `build_sequence`."""
        return _build(self, fields, l_max, eos)


def build_sequence(
    template: "str | Template", fields: Mapping[str, Any], l_max: int = 768, eos: bool = False
) -> list[int]:
    """Tokens of a context, ready to be trained on or to be completed.

    Args:
        template: as in a model's metadata; "" stands for BOS and the bytes of `input`.
        fields: name -> value. A value is text, bytes or a whole number; of a list, a sequence
            of them; of a repeated entry with subtokens, a sequence of mappings, of tuples in
            the entry's order, or of main values alone. Fields without a value may be left out.
        l_max: tokens the sequence should fit into: repeated items are left out for it, the
            oldest first. Nothing else is ever cut.
        eos: whether EOS follows; it is not counted.

    Raises:
        ValueError: the template cannot be read, a field is not one of its, or a value is of
            the wrong kind; the message names the entry or field.
    """
    parsed = parse_template(template) if isinstance(template, str) else template
    return parsed.build(fields, l_max, eos)


# Parsing


@lru_cache(maxsize=64)
def parse_template(spec: str) -> Template:
    """Read a template.

    Raises:
        ValueError: an entry cannot be read; the message names it and says why.
    """
    entries = [_entry(text) for text in map(str.strip, spec.split(";")) if text]
    if spec and not entries:
        raise ValueError(f"template {spec!r}: it has no entries")
    boundary = max((i for i, e in enumerate(entries) if e == Entry("bare", ATN)), default=None)
    if boundary is not None:
        for i in range(len(entries) - 1, boundary, -1):
            if entries[i].kind == "frame":
                entries[i] = replace(entries[i], terminal=True)
                break
    return Template(tuple(entries))


def _entry(text: str) -> Entry:
    if match := _REPEATED_WITH_SUBTOKENS.fullmatch(text):
        name, primary, field, rest = match.groups()
        token = _token(name, text)
        return Entry("repeated", token, field, primary, _subtokens(rest, text))
    if match := _FRAME_WITH_SUBTOKENS.fullmatch(text):
        name, field, rest = match.groups()
        return Entry("frame", _token(name, text), field, subtokens=_subtokens(rest, text))
    if match := _FRAME.fullmatch(text):
        name, field, mark = match.groups()
        kind = {"+": "list", "*": "repeated", "": "frame"}[mark]
        return Entry(kind, _token(name, text), field)
    if re.fullmatch(_TOKEN, text):
        return Entry("bare", _token(text, text))
    raise ValueError(
        f"template entry {text!r}: expected TOKEN, TOKEN:field, TOKEN:field/SUB:field,"
        " TOKEN:field+, TOKEN:field* or TOKEN(field):field*/SUB:field"
    )


def _token(name: str, entry: str) -> int:
    if name not in BY_NAME:
        raise ValueError(f"template entry {entry!r}: there is no token {name}")
    return BY_NAME[name]


def _subtokens(rest: str, entry: str) -> tuple[Subtoken, ...]:
    found = []
    for part in rest.split("/")[1:]:
        match = _SUBTOKEN.fullmatch(part)
        if not match:
            raise ValueError(f"template entry {entry!r}: {part!r}: expected SUB:field")
        token = _token(match[1], entry)
        if match[2] is None and token not in BARE_SUBTOKENS:
            raise ValueError(
                f"template entry {entry!r}: {part} has no field;"
                " only BOS, EOS, ATN and PAD may stand alone inside a frame"
            )
        found.append(Subtoken(token, match[2]))
    return tuple(found)


# Building


def _build(template: Template, fields: Mapping[str, Any], l_max: int, eos: bool) -> list[int]:
    known = template.fields or ("input",)
    for name in fields:
        if name not in known:
            raise ValueError(f"no field {name!r} in the template; there are: {', '.join(known)}")
    fixed: dict[int, list[int]] = {}
    for i, entry in enumerate(template.entries):
        if entry.kind == "bare":
            fixed[i] = [entry.token]
        elif entry.kind == "frame":
            fixed[i] = _frame(entry, entry.field or "", fields)
        elif entry.kind == "list":
            fixed[i] = _list(entry, _items(entry, fields))
    room = l_max - sum(map(len, fixed.values()))
    for i, entry in enumerate(template.entries):
        if entry.kind == "repeated":
            fixed[i] = _repeated(entry, _items(entry, fields), room)
            room -= len(fixed[i])
    tokens = [token for i in sorted(fixed) for token in fixed[i]]
    if not template.entries:
        tokens.append(BOS)
    if not template.fields:  # prose: nothing in the template shows the input
        tokens += _bytes(fields.get("input"), "input")
    return [*tokens, EOS] if eos else tokens


def _frame(entry: Entry, primary: str, values: Mapping[str, Any]) -> list[int]:
    """The frame around values[primary] and its subtokens; empty if there is nothing to show."""
    main = _bytes(values.get(primary), primary)
    if not main:
        return [entry.token] if entry.terminal and not entry.subtokens else []
    tokens = [entry.token, *main]
    after_atn = open_ended = False
    for sub in entry.subtokens:
        if sub.field is None:
            tokens.append(sub.token)
            after_atn = after_atn or sub.token == ATN
        elif values.get(sub.field) is not None:
            tokens += [sub.token, *_bytes(values[sub.field], sub.field)]
        else:
            open_ended = open_ended or after_atn
    return tokens if entry.terminal or open_ended else [*tokens, END]


def _list(entry: Entry, items: Sequence[Any]) -> list[int]:
    if not items:
        return []
    tokens = []
    for item in items[:MAX_LIST_ITEMS]:
        tokens += [NEXT, *_bytes(item, f"{entry.field} item")]
    return [entry.token, *tokens[1:], END]


def _repeated(entry: Entry, items: Sequence[Any], room: int) -> list[int]:
    """One frame an item; the newest that fit into `room`, oldest first."""
    chosen: list[list[int]] = []
    primary = entry.primary or entry.field or ""
    for item in reversed(items):
        frame = _frame(entry, primary, _item(entry, primary, item))
        if len(frame) > room:
            break
        room -= len(frame)
        chosen.append(frame)
    return [token for frame in reversed(chosen) for token in frame]


def _item(entry: Entry, primary: str, item: Any) -> Mapping[str, Any]:
    """An item of a repeated entry as a mapping from its keys to values."""
    if entry.primary is None or isinstance(item, Value):
        return {primary: item}
    if isinstance(item, Mapping) and not set(item) - set(entry.keys):
        return item
    if isinstance(item, tuple) and len(item) <= len(entry.keys):
        return dict(zip(entry.keys, item, strict=False))
    keys = ", ".join(entry.keys)
    raise ValueError(f"field {entry.field!r}: item {item!r}: expected values for {keys}")


def _items(entry: Entry, fields: Mapping[str, Any]) -> Sequence[Any]:
    items = fields.get(entry.field or "")
    if items is None:
        return ()
    if isinstance(items, list | tuple):
        return items
    raise ValueError(f"field {entry.field!r}: expected a list, not {type(items).__name__}")


def _bytes(value: Any, field: str) -> list[int]:
    if value is None:
        return []
    if isinstance(value, bool) or not isinstance(value, Value):
        raise ValueError(f"field {field!r}: expected text, not {type(value).__name__}")
    return encode(value if isinstance(value, bytes) else str(value))
