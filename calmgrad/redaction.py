"""Finding secrets in shell commands: passwords, tokens, keys, URLs with credentials.

A command in which one is found is to be left out as a whole.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from calmgrad.secret_patterns import PATTERNS, Pattern

_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY")
# Where a long hexadecimal string is the name of a commit or of a file's content.
_HASHES = re.compile(r"\Agit\s|\bsha(?:256|512|1)|\bmd5sum\b|\bdocker\s+(?:rmi?|inspect|logs)\b")


def find_secret(command: str) -> tuple[Pattern, str] | None:
    """The first kind of secret found in a command, and the secret; None if there is none."""
    texts = _readings(command)
    for pattern in PATTERNS:
        if pattern.name == "long hexadecimal string" and _HASHES.search(command):
            continue
        for text in texts:
            if match := pattern.regex.search(text):
                return pattern, _secret_of(match, command)
    return None


# A backslash at the end of a line, and what stands in quotes.
_CONTINUATION = re.compile(r"\\\r?\n")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_NO_SEPARATORS = str.maketrans("|;&\n", ",,, ")


def _readings(command: str) -> tuple[str, ...]:
    """The command, and, where it differs, as the shell reads it, with every character in its place.

    The shell joins continued lines, and a separator in quotes is none: `curl 'h?a=1&b=2' -u ann:pw`
    is one command. The patterns look no further than the next separator.
    """
    joined = _CONTINUATION.sub(lambda match: " " * len(match[0]), command)
    read = _QUOTED.sub(lambda match: match[0].translate(_NO_SEPARATORS), joined)
    return tuple(dict.fromkeys((joined, read)))


def _secret_of(match: re.Match[str], command: str) -> str:
    """What the pattern says is the secret, or all that it found, as it stands in the command."""
    named = match.re.groupindex.get("secret")
    start, end = match.span("secret") if named and match["secret"] is not None else match.span()
    return command[start:end]


def _hidden(match: re.Match[str], command: str) -> str:
    """What is not to be shown: the secret or, where it is not known which word it is, the rest."""
    secret = _secret_of(match, command)
    if secret != command[slice(*match.span())] or not re.search(r"\s", secret):
        return secret
    return command[match.start() :]


@dataclass(frozen=True, slots=True)
class Removed:
    """A command with a secret: its number, the kind of secret, and the command without it."""

    number: int
    kind: str
    masked: str


REUSED = "secret of another command"
LINE_OF_KEY = "line of a private key"


def _is_telling(secret: str) -> bool:
    """Whether a secret is looked for in all commands: it could be no common word."""
    return len(secret) >= 12 or (len(secret) >= 6 and any(map(str.isdigit, secret)))


def remove_secrets(commands: Sequence[str]) -> tuple[list[int], list[Removed]]:
    """The numbers of the commands without secrets, and the others.

    A secret found in one command is looked for in all, where no pattern would see it.
    """
    found = {i: hit for i, command in enumerate(commands) if (hit := find_secret(command))}
    secrets = {secret for _, secret in found.values() if _is_telling(secret)}
    reused = re.compile("|".join(map(re.escape, sorted(secrets, key=len, reverse=True))))
    key_lines = _lines_of_keys(commands)
    kept, removed = [], []
    for i, command in enumerate(commands):
        if i in key_lines:
            removed.append(Removed(i, LINE_OF_KEY, "…"))
        elif i in found:
            removed.append(Removed(i, found[i][0].name, masked_command(command)))
        elif secrets and reused.search(command):
            hidden = reused.sub(lambda match: masked(match[0]), command)
            removed.append(Removed(i, REUSED, hidden))
        else:
            kept.append(i)
    return kept, removed


def _lines_of_keys(commands: Sequence[str]) -> set[int]:
    """The numbers of the commands that are lines of a private key.

    A history without times keeps a pasted key as one command a line, down to its END line;
    without one, 100 lines are taken for the key.
    """
    lines: set[int] = set()
    last = -1
    for i, command in enumerate(commands):
        ends = "-----END " in command
        if i <= last:
            lines.add(i)
            last = -1 if ends else last
        elif _KEY_BEGINS.search(command) and not ends:
            last = i + 100
    return lines


def masked_command(command: str) -> str:
    """The command with all that any pattern finds in it masked."""
    for pattern in PATTERNS:
        secrets = {
            _hidden(match, command)
            for text in _readings(command)
            for match in pattern.regex.finditer(text)
        }
        for secret in sorted(secrets, key=len, reverse=True):
            command = command.replace(secret, masked(secret))
    return command


def masked(secret: str) -> str:
    """A secret that can be shown: its first two characters at most."""
    return f"{secret[: min(2, len(secret) // 3)]}…"
