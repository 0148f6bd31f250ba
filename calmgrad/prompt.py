"""From what somebody typed to a prompt; and stop conditions (FORMATS §5 and §8)."""

import re
import warnings
from collections.abc import Iterator

from calmgrad.template import Template, parse_template


class InputWarning(UserWarning):
    """Part of a typed `field:value` text is not used."""


def prompt(template: str, text: str, l_max: int = 768) -> list[int]:
    """The tokens a model is to go on with after `text` was typed.

    Args:
        template: as in a model's metadata; "" stands for BOS and the bytes.
        text: `field:value field:value …`, or else the value of `input`.
        l_max: as in `build_sequence`.

    Raises:
        ValueError: the template cannot be read, or has no field that could hold the text.

    Warns:
        InputWarning: as in `typed_fields`.
    """
    parsed = parse_template(template)
    return parsed.build(typed_fields(parsed, text), l_max)


def typed_fields(template: Template, text: str) -> dict[str, str]:
    """The fields given by a typed text.

    In a template of several fields a field's name and a colon count at the start or after a
    space, and the value runs to the next one. Otherwise the text is the value of `input`, or of
    the first field.

    Raises:
        ValueError: the first field is a list or repeated: typed text cannot fill it.

    Warns:
        InputWarning: text stands before the first field, a field comes twice, or one is a list
            or repeated.
    """
    names = template.fields or ("input",)
    found = list(_find_fields(names, text)) if len(names) > 1 else []
    if found:
        return _values(template, text, found)
    name = "input" if "input" in names else names[0]
    if not template.fields or name in template.text_fields:
        return {name: text}
    if text:
        raise ValueError(f"the template's first field, {name}, cannot hold typed text")
    return {}


def _find_fields(names: tuple[str, ...], text: str) -> Iterator[re.Match[str]]:
    return re.finditer(rf"(?:^|(?<= ))({'|'.join(names)}):", text)


def _values(template: Template, text: str, found: list[re.Match[str]]) -> dict[str, str]:
    if found[0].start() > 0:
        lost = text[: found[0].start()].strip(" ")
        if lost:
            _warn(f"text before the first field is not used: {lost!r}")
    values: dict[str, str] = {}
    for i, match in enumerate(found):
        stop = found[i + 1].start() - 1 if i + 1 < len(found) else len(text)
        name, value = match[1], text[match.end() : stop].removesuffix(" ")
        if name not in template.text_fields:
            _warn(f"field {name} is a list: typed text cannot fill it")
            continue
        if name in values:
            _warn(f"field {name} comes twice: the last one counts")
        values[name] = value
    return values


def _warn(message: str) -> None:
    warnings.warn(message, InputWarning, stacklevel=2)


_ESCAPES = {r"\n": "\n", r"\r": "\r", r"\t": "\t", r"\\": "\\"}


def stop_patterns(spec: str) -> list[bytes]:
    r"""The byte patterns of stop conditions, which are separated by blanks.

    Metadata are lines, so a pattern of newlines is written as `\n\n`; `\t`, `\r` and `\\` are
    understood too, any other backslash stands for itself. Nothing but newlines, as calm-mamba's
    prose models have it, is one pattern.
    """
    if spec and not spec.strip("\n"):
        return [spec.encode()]
    return [unescaped(pattern) for pattern in spec.split()]


def unescaped(pattern: str) -> bytes:
    r"""The bytes of one pattern in which `\n`, `\r`, `\t` and `\\` stand for others."""
    text = re.sub(r"\\[nrt\\]", lambda match: _ESCAPES[match[0]], pattern)
    return text.encode("utf-8", "surrogateescape")
