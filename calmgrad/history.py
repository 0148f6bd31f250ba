"""Shell histories as sequences of the shell template, without the secrets in them.

    BOS {HIST earlier command END} ATN CMD command EOS

bash, zsh and fish keep neither the exit code nor the folder of a command, so there is no EXIT
and no CWD. Times, where they are kept, tell one sitting from the next.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from calmgrad.domains import DOMAINS
from calmgrad.formats.files import AnyPath, read_file
from calmgrad.redaction import Removed, remove_secrets
from calmgrad.template import build_sequence
from calmgrad.tokenizer import ATN


@dataclass(frozen=True, slots=True)
class Entry:
    """A command of a history, and when it was typed, in seconds, if that is kept."""

    command: str
    time: int | None = None


def detect(data: bytes) -> str:
    """The shell whose history this looks like."""
    if re.search(rb"^- cmd: ", data, re.MULTILINE):
        return "fish"
    if re.search(rb"^: \d+:\d+;", data, re.MULTILINE):
        return "zsh"
    return "bash"


def parse(data: bytes, shell: str) -> list[Entry]:
    """The commands of a history file, oldest first; bytes that are not UTF-8 stay as they are.

    Args:
        data: the file.
        shell: "bash", "zsh" (plain or extended) or "fish".
    """
    if shell == "zsh":
        data = re.sub(rb"\x83(.)", lambda m: bytes([m[1][0] ^ 32]), data, flags=re.DOTALL)
    text = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    entries = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](text.split("\n"))
    return [entry for entry in entries if entry.command.strip()]


def _bash(lines: Sequence[str]) -> Iterator[Entry]:
    """A line a command; after a line `#seconds`, all lines up to the next such line."""
    time: int | None = None
    command: list[str] = []
    for line in [*lines, "#0"]:
        stamp = re.fullmatch(r"#(\d{1,15})", line)
        if stamp:
            yield Entry("\n".join(command).rstrip("\n"), time)
            time, command = int(stamp[1]), []
        elif time is None:
            yield Entry(line)
        else:
            command.append(line)


def _zsh(lines: Sequence[str]) -> Iterator[Entry]:
    r"""`command` or `: seconds:duration;command`; a backslash at the end of a line continues it."""
    command: list[str] = []
    time: int | None = None
    for line in [*lines, ""]:
        if not command:
            match = re.match(r": (\d{1,15}):\d+;", line)
            time = int(match[1]) if match else None
            line = line[match.end() :] if match else line
        if line.endswith("\\"):
            command.append(line[:-1])
            continue
        yield Entry("\n".join([*command, line]).rstrip("\n"), time)
        command = []


def _fish(lines: Sequence[str]) -> Iterator[Entry]:
    r"""`- cmd: …` with \n and \\ escaped, then `  when: seconds`, then `  paths:` and a list."""
    command, time = "", None
    for line in lines:
        if line.startswith("- cmd: "):
            yield Entry(command, time)
            command, time = re.sub(r"\\(n|\\)", _unescaped, line[7:]), None
        elif match := re.fullmatch(r"  when: (\d{1,15})", line):
            time = int(match[1])
    yield Entry(command, time)


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else "\\"


@dataclass
class HistoryData:
    """Sequences of histories, and what was left out.

    Attributes:
        tokens: a list of tokens for each command.
        cmd_positions: of ATN in each.
        commands: how many the histories hold.
        left_out: reason -> number of commands, without those with secrets.
        removed: the commands with secrets; `number` counts the commands of all files.
        shells: of each file.
    """

    tokens: list[list[int]] = field(default_factory=list)
    cmd_positions: list[int] = field(default_factory=list)
    commands: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    removed: list[Removed] = field(default_factory=list)
    shells: list[str] = field(default_factory=list)


def read_histories(
    paths: Sequence[AnyPath],
    shell: str | None = None,
    context: int = 4,
    gap: int = 3600,
    l_max: int = 768,
) -> HistoryData:
    """Sequences of the commands in history files.

    Args:
        paths: the files; no command of one is context to those of another.
        shell: of all of them; looked for in each if None.
        context: how many earlier commands a sequence shows at most.
        gap: seconds without a command after which earlier ones are no context.
        l_max: tokens of a sequence; earlier commands are dropped for it, the oldest first.

    Raises:
        FileError: a file cannot be read.
    """
    result = HistoryData()
    files = []
    for path in paths:
        data = read_file(path)
        result.shells.append(shell or detect(data))
        files.append(parse(data, result.shells[-1]))
    # All at once: a secret found in one command is looked for in those of every file.
    commands = [entry.command for entries in files for entry in entries]
    result.commands = len(commands)
    kept, result.removed = remove_secrets(commands)
    clean = set(kept)
    number = 0
    for entries in files:
        earlier: list[Entry] = []
        for entry in entries:
            if number in clean:
                _add(result, entry, _sitting(earlier, entry, context, gap), l_max)
                earlier.append(entry)
            number += 1
    return result


def _sitting(earlier: Sequence[Entry], entry: Entry, count: int, gap: int) -> list[str]:
    """The commands before this one, so many at most, back to a long pause."""
    commands: list[str] = []
    last = entry.time
    for before in reversed(earlier[-count:] if count else ()):
        if last is not None and before.time is not None and abs(last - before.time) > gap:
            break
        commands.append(before.command.strip())
        last = before.time
    return commands[::-1]


def _add(result: HistoryData, entry: Entry, earlier: list[str], l_max: int) -> None:
    template = DOMAINS["shell"].metadata.template
    fields = {"history": earlier, "input": entry.command.strip()}
    tokens = build_sequence(template, fields, l_max - 1, eos=True)
    if len(tokens) > l_max:
        result.left_out[f"over {l_max} tokens"] += 1
        return
    result.tokens.append(tokens)
    result.cmd_positions.append(tokens.index(ATN))
