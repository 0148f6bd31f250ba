"""Files made to do harm, and what calmgrad has to answer to each.

    python -m tests.faults.hostile          each in a process of its own: answer, memory, time

The table below is read by test_hostile_files.py too. A row is a name, what makes the file, the
command it is given to, the exit code, and words of the answer. `BAD` in a command is the file.
"""

import contextlib
import json
import os
import re
import shlex
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import calmgrad
from calmgrad.formats import cwgt

ROOT = Path(__file__).parents[2]
MEGABYTE = 1_000_000
GOOD_DATA, GOOD_MODEL, GOOD_METRICS = "good.ctds", "good.cwgt", "metrics.jsonl"
# What a file of each kind is given to.
DATA = "evaluate -m good.cwgt -d BAD"
MODEL = "evaluate -m BAD -d good.ctds"
CONFIG = "train -d good.ctds --config BAD"
TRAIN = "train -d good.ctds -m new --d-model 16 --n-layers 1 --max-steps 1"

Make = Callable[[Path], object]


class Hostile(NamedTuple):
    """One file: its name, what makes it, the command, and the answer."""

    file: str
    make: Make
    command: str
    code: int
    words: str

    @property
    def arguments(self) -> list[str]:
        return [self.file if word == "BAD" else word for word in shlex.split(self.command)]


def prepare(folder: Path) -> None:
    """Good files, small."""
    start = [calmgrad.BOS, calmgrad.ATN, calmgrad.CMD]
    rows = [[*start, *f"git add {name}".encode(), calmgrad.EOS] for name in "abcdefgh"]
    calmgrad.write_dataset(folder / GOOD_DATA, rows, [1] * len(rows))
    calmgrad.new_model(d_model=16, n_layers=1).save(folder / GOOD_MODEL)
    (folder / GOOD_METRICS).write_text('{"step": 1, "loss": 5.0}\n{"step": 2, "loss": 4.0}\n')


# --- how they are made ----------------------------------------------------------------------------


def holding(data: bytes) -> Make:
    return lambda path: path.write_bytes(data)


def good(name: str, change: Callable[[bytearray], object]) -> Make:
    """The good file of that name, changed."""

    def make(path: Path) -> None:
        data = bytearray((path.parent / name).read_bytes())
        change(data)
        path.write_bytes(data)

    return make


def patched(name: str, offset: int, code: str, *values: float) -> Make:
    return good(name, lambda data: struct.pack_into("<" + code, data, offset, *values))


def header(field: str, value: int) -> Make:
    """The good model with another number in its header."""
    at = cwgt.OFFSETS[field]
    code = {1: "B", 2: "H", 4: "I"}[min(n for n in cwgt.OFFSETS.values() if n > at) - at]
    return patched(GOOD_MODEL, at, code, value)


def cut(name: str, size: int) -> Make:
    return good(name, lambda data: data.__delitem__(slice(size, None)))


def longer(name: str, tail: bytes) -> Make:
    return good(name, lambda data: data.extend(tail))


def link(to: str) -> Make:
    return lambda path: path.symlink_to(to)


def as_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


def nothing(path: Path) -> None:
    """The file is not made, or was there before."""


def sparse(size: int, start: bytes) -> Make:
    """A file of that size which takes no room."""

    def make(path: Path) -> None:
        path.write_bytes(start)
        os.truncate(path, size)

    return make


def aliases() -> bytes:
    """Nine lines of YAML that stand for 10^9 values."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for above, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{above}'] * 9)}]")
    return "\n".join(lines).encode()


def metadata(text: bytes) -> Make:
    """The good model with this text in place of its own."""

    def change(data: bytearray) -> None:
        (size,) = struct.unpack_from("<I", data, cwgt.OFFSETS["meta_size"])
        struct.pack_into("<I", data, cwgt.OFFSETS["meta_size"], len(text))
        data[48 : 48 + size] = text

    return good(GOOD_MODEL, change)


def last_weight(value: float) -> Make:
    def change(data: bytearray) -> None:
        data[-4:] = struct.pack("<f", value)

    return good(GOOD_MODEL, change)


CTDS_BOMB = b"CTDS" + struct.pack("<IIH", 0, 2**32 - 1, 65535)
CWGT_BOMB = struct.pack(
    *("<4s4H4BHI5H2BIB9x", b"CWGT", 5, 3, 320, 4080, 16, 255, 255, 255, 768, 2**32 - 1),
    *(0, 0, 0, 0, 0, 0, 255, 0, 255),
)

HOSTILE = [
    # What is no regular file. A FIFO must not be waited for, a device not be read.
    Hostile("folder.ctds", Path.mkdir, DATA, 3, "folder.ctds: is a directory: expected a regular"),
    Hostile("folder.cwgt", Path.mkdir, MODEL, 3, "folder.cwgt: is a directory"),
    Hostile("folder.toml", Path.mkdir, CONFIG, 3, "folder.toml: is a directory"),
    Hostile("pipe.ctds", os.mkfifo, DATA, 3, "pipe.ctds: is a FIFO: expected a regular file"),
    Hostile("pipe.cwgt", os.mkfifo, MODEL, 3, "pipe.cwgt: is a FIFO"),
    Hostile("pipe.yaml", os.mkfifo, CONFIG, 3, "pipe.yaml: is a FIFO"),
    Hostile("pipe.jsonl", os.mkfifo, "plot BAD", 3, "pipe.jsonl: is a FIFO"),
    Hostile("/dev/zero", nothing, "info BAD", 3, "/dev/zero: is a character device"),
    Hostile("/dev/null", nothing, DATA, 3, "/dev/null: is a character device"),
    Hostile("/dev/stdin", nothing, MODEL, 3, "expected a regular file"),
    Hostile("zero.cwgt", link("/dev/zero"), MODEL, 3, "zero.cwgt: is a character device"),
    Hostile("socket.ctds", as_socket, DATA, 3, "socket.ctds: is a socket"),
    # Links and names.
    Hostile("link.ctds", link(GOOD_DATA), DATA, 0, ""),
    Hostile("link.cwgt", link(GOOD_MODEL), MODEL, 0, ""),
    Hostile("loop.ctds", link("loop.ctds"), DATA, 3, "loop.ctds: cannot be opened: Too many"),
    Hostile("gone.cwgt", link("nowhere"), MODEL, 3, "gone.cwgt: no such file"),
    Hostile("missing.ctds", nothing, DATA, 3, "missing.ctds: no such file"),
    Hostile("good.ctds/x", nothing, DATA, 3, "cannot be opened: Not a directory"),
    Hostile("x" * 300, nothing, DATA, 3, "cannot be opened: File name too long"),
    Hostile("a\nb.ctds", holding(b""), DATA, 3, r"'a\nb.ctds': 0 bytes: expected a CTDS header"),
    Hostile("\x1b[31mred.cwgt", holding(b""), MODEL, 3, r"'\x1b[31mred.cwgt': 0 bytes: expected a"),
    Hostile("\udcff.ctds", holding(b""), DATA, 3, r"'\udcff.ctds': 0 bytes: expected a CTDS"),
    Hostile("\u202egpj.toml", holding(b"lr"), CONFIG, 3, r"'\u202egpj.toml': line 1: expected '='"),
    # Data sets.
    Hostile("empty.ctds", holding(b""), DATA, 3, "empty.ctds: 0 bytes: expected a CTDS header"),
    Hostile("empty", holding(b""), "info BAD", 3, "empty: begins with b'': expected b'CWGT' or"),
    Hostile("bomb.ctds", holding(CTDS_BOMB), DATA, 3, "count (byte 8) is 4294967295: lengths and"),
    Hostile("bomb.ctds", holding(CTDS_BOMB), "info BAD", 3, "count (byte 8) is 4294967295"),
    Hostile("none.ctds", patched(GOOD_DATA, 8, "I", 0), DATA, 3, "count (byte 8) is 0: expected"),
    Hostile("short.ctds", cut(GOOD_DATA, 100), DATA, 3, "truncated: 100 bytes, expected"),
    Hostile("half.ctds", cut(GOOD_DATA, 7), DATA, 3, "7 bytes: expected a CTDS header of 14"),
    Hostile("junk.ctds", longer(GOOD_DATA, b"\0"), DATA, 3, "bytes after the last token"),
    Hostile("token.ctds", good(GOOD_DATA, lambda d: d.__setitem__(slice(-2, None), b"\xff\xff")),
            DATA, 3, "token 65535 at sequence 7, position 12 (byte"),
    Hostile("zero.ctds", patched(GOOD_DATA, 14, "H", 0), DATA, 3, "length of sequence 0 (byte 14)"),
    Hostile("atn.ctds", patched(GOOD_DATA, 30, "H", 60000), DATA, 3, "ATN position 60000 of"),
    Hostile("max.ctds", patched(GOOD_DATA, 12, "H", 9), DATA, 3, "max_len (byte 12) is 9: the"),
    Hostile("model.ctds", good(GOOD_MODEL, lambda d: None), DATA, 3, "magic (byte 0) is b'CWGT'"),
    Hostile("gzip.ctds", holding(b"\x1f\x8b\x08" + bytes(97)), DATA, 3, r"magic (byte 0) is b'\x"),
    Hostile("version.ctds", patched(GOOD_DATA, 4, "I", 7), DATA, 0, "vocab_version (byte 4) is 7"),
    Hostile("huge.ctds", sparse(40 * MEGABYTE, CTDS_BOMB[:8] + struct.pack("<IH", 6_000_000, 9)),
            DATA, 3, "length of sequence 0 (byte 14) is 0"),
    Hostile("zeros.ctds", sparse(10**12, b""), DATA, 3, r"magic (byte 0) is b'\x00\x00\x00\x00'"),
    # Models.
    Hostile("empty.cwgt", holding(b""), MODEL, 3, "empty.cwgt: 0 bytes: expected a CWGT header"),
    Hostile("bomb.cwgt", holding(CWGT_BOMB), MODEL, 3, "param_count (byte 18) is 4294967295: exp"),
    Hostile("bomb.cwgt", holding(CWGT_BOMB), "info BAD", 3, "param_count (byte 18) is 4294967295"),
    Hostile("short.cwgt", cut(GOOD_MODEL, 5000), MODEL, 3, "truncated: 5000 bytes, expected"),
    Hostile("half.cwgt", cut(GOOD_MODEL, 47), MODEL, 3, "47 bytes: expected a CWGT header of 48"),
    Hostile("junk.cwgt", longer(GOOD_MODEL, bytes(4)), MODEL, 3, "bytes after the last weight"),
    Hostile("arch.cwgt", header("arch", 4), MODEL, 3, "arch (byte 4) is 4: expected 5"),
    Hostile("swapped.cwgt", header("arch", 0x0500), MODEL, 3, "arch (byte 4) is 1280: expected 5"),
    Hostile("ewc.cwgt", header("flags", 3), MODEL, 3, "truncated"),
    Hostile("untied.cwgt", header("flags", 0), MODEL, 3, "flags (byte 6) is 0: expected 1 (tied)"),
    Hostile("flags.cwgt", header("flags", 65535), MODEL, 3, "flags (byte 6) is 65535"),
    Hostile("vocab.cwgt", header("vocab", 321), MODEL, 3, "vocab (byte 8) is 321: expected 320"),
    Hostile("layers.cwgt", header("n_layers", 17), MODEL, 3, "n_layers (byte 12) is 17: expected"),
    Hostile("zero.cwgt", header("d_model", 0), MODEL, 3, "d_model (byte 10) is 0: expected 1 to"),
    Hostile("rank.cwgt", header("dt_rank", 0), MODEL, 0, ""),
    Hostile("count.cwgt", header("param_count", 5), MODEL, 3, "param_count (byte 18) is 5: exp"),
    Hostile("meta.cwgt", header("meta_size", 4097), MODEL, 3, "meta_size (byte 34) is 4097"),
    Hostile("meta.cwgt", header("meta_size", 2**32 - 1), MODEL, 3, "is 4294967295: expected at m"),
    Hostile("utf8.cwgt", metadata(b"\xff\n\n\n"), MODEL, 3, "metadata (byte 48): invalid start"),
    Hostile("lines.cwgt", metadata(b"{" * 4000), MODEL, 3, "metadata (byte 48): expected three li"),
    Hostile("escape.cwgt", metadata(b"\x1b[31m\n\n\n"), "info BAD", 0, r"\x1b[31m"),
    Hostile("nan.cwgt", last_weight(float("nan")), MODEL, 3, "ln_f.bias[15] is nan (weights"),
    Hostile("inf.cwgt", last_weight(float("-inf")), MODEL, 3, "ln_f.bias[15] is -inf (weights"),
    Hostile("nan.cwgt", last_weight(float("nan")), "info BAD", 0, "not_finite"),
    Hostile("nan.cwgt", last_weight(float("nan")), "train -d good.ctds -m BAD", 3, "is nan"),
    Hostile("data.cwgt", good(GOOD_DATA, lambda d: None), MODEL, 3, "magic (byte 0) is b'CTDS'"),
    Hostile("pickle.cwgt", holding(b"\x80\x04cposix\nsystem\n(S'true'\ntR." + bytes(99)), MODEL, 3,
            "magic (byte 0) is"),
    # Configurations.
    Hostile("deep.yaml", holding(b"[" * 60_000), CONFIG, 3, "line 1: is nested too deeply"),
    Hostile("deep.toml", holding(b"x=" + b"[" * 60_000), CONFIG, 3, "is nested too deeply"),
    Hostile("dots.toml", holding(b"a." * 30_000 + b"a=1"), CONFIG, 3, "line 1: is nested too d"),
    Hostile("alias.yaml", holding(aliases()), CONFIG, 3, "line 1: anchors (&) and aliases (*) are"),
    Hostile("merge.yaml", holding(b"<<: {lr: 1}"), CONFIG, 3, "line 1: expected a name before"),
    Hostile("tag.yaml", holding(b"a: !!python/object/apply:os.system [id]"), CONFIG, 3, "tags (!)"),
    Hostile("large.toml", holding(b"#" * 70_000), CONFIG, 3, "70000 bytes: expected at most"),
    Hostile("digits.toml", holding(b"lr = " + b"9" * 5000), CONFIG, 3, "a value that cannot be re"),
    Hostile("digits.yaml", holding(b"training: {epochs: " + b"9" * 4000 + b"}"), CONFIG, 2,
            "training.epochs: expected"),
    Hostile("binary.toml", holding(b"lr = 1\n\xff\xfe"), CONFIG, 3, "line 2: is not UTF-8 text"),
    Hostile("nul.yaml", holding(b"model:\n  \0"), CONFIG, 3, "line 2: special characters are not"),
    Hostile("nan.toml", holding(b"lr = nan"), CONFIG, 2, "lr: expected"),
    Hostile("key.toml", holding(b'"\\u001b[31m" = 1'), CONFIG, 2, r"'\x1b[31m': unknown key"),
    Hostile("config.txt", holding(b"lr = 1"), CONFIG, 2, "expected a .toml, .yaml or .yml file"),
    # Metrics.
    Hostile("deep.jsonl", holding(b"[" * 60_000 + b"\n{}\n"), "plot BAD", 3, "line 1: not JSON"),
    Hostile("long.jsonl", holding(b"[" + b"0," * 10**6 + b"0]\n{}\n"), "plot BAD", 3, "line 1: 20"),
    Hostile("lines.jsonl", holding(b"\n" * 10**6 + b"{}"), "plot BAD", 3, "line 1: not JSON"),
    # Outputs: what is there stays.
    Hostile("out", Path.mkdir, f"{TRAIN} -o BAD", 5, "out: cannot be written: expected a file in"),
    Hostile("no/out", nothing, f"{TRAIN} -o BAD", 5, "no/out: cannot be written: expected"),
    Hostile("pipe", os.mkfifo, f"{TRAIN} -o BAD", 3, "pipe: is a FIFO"),
    Hostile("/dev/null", nothing, f"{TRAIN} -o BAD", 3, "/dev/null: is a character device"),
    Hostile("good.ctds", nothing, f"{TRAIN} -o BAD", 2, "the weights would replace the data set"),
    Hostile("note", holding(b"a letter"), f"{TRAIN} -o BAD", 2, "exists and is no CWGT file"),
    Hostile("out.svg", Path.mkdir, "plot metrics.jsonl -o BAD", 5, "out.svg: is a directory"),
    Hostile("no/out.svg", nothing, "plot metrics.jsonl -o BAD", 5, "there is no folder"),
    Hostile("pipe.svg", os.mkfifo, "plot metrics.jsonl -o BAD", 5, "pipe.svg: is a FIFO: expected"),
]  # fmt: skip


def size_of(path: Path) -> int:
    """Bytes of a regular file; 0 of anything else."""
    with contextlib.suppress(OSError):  # a loop of links, a name too long
        return path.stat().st_size if path.is_file() else 0
    return 0


def name_of(row: Hostile) -> str:
    """A row as a test is called."""
    return re.sub(r"[^\w./-]+", "_", f"{row.file[:20]!r}_{row.command.split()[0]}")


# --- in processes of their own --------------------------------------------------------------------

# The most memory of a process is counted anew at its exec only here, not in its resource usage.
CHILD = """
import atexit, sys
note = sys.argv.pop(1)
def write():
    with open("/proc/self/status") as status, open(note, "w") as file:
        file.write(next(line for line in status if line.startswith("VmHWM")).split()[1])
atexit.register(write)
from calmgrad.cli.main import main
main()
"""


# What they are measured against: commands that end as soon, or that do all their work.
USUAL = {
    "evaluate, exit code 3": "evaluate -m good.cwgt -d missing",
    "evaluate, exit code 0": "evaluate -m good.cwgt -d good.ctds",
    "info, exit code 3": "info missing",
    "info, exit code 0": "info good.cwgt",
    "plot, exit code 3": "plot missing",
    "train, exit code 3": "train -d missing -m good.cwgt",
}


class Answer(NamedTuple):
    """What came of a command."""

    code: int
    output: str
    megabytes: float
    seconds: float


def ask(arguments: list[str], folder: Path) -> Answer:
    """Run a command in a process of its own; a minute at most."""
    note = folder / ".peak"
    environment = {**os.environ, "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, str(note), *arguments]
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, input=b"", timeout=60,
    )  # fmt: skip
    output = (done.stdout + done.stderr).decode()
    peak = int(note.read_text()) * 1024 / MEGABYTE if note.exists() else 0.0
    note.unlink(missing_ok=True)
    return Answer(done.returncode, output, peak, time.monotonic() - began)


def main() -> int:
    """Every row; a report as JSON, exit code 1 if an answer was wrong."""
    rows: list[dict[str, Any]] = []
    usual: dict[str, Answer] = {}  # of the command on good files
    for row in HOSTILE:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(folder)
            kind = f"{row.command.split()[0]}, exit code {3 if row.code else 0}"
            if kind not in usual:
                usual[kind] = ask(USUAL[kind].split(), folder)
            path = folder / row.file
            row.make(path)
            size = size_of(path) / MEGABYTE
            answer = ask(row.arguments, folder)
        extra = answer.megabytes - usual[kind].megabytes
        talk = [line for line in answer.output.splitlines() if line.startswith("error: ")]
        wrong = [
            *([f"exit code {answer.code}"] if answer.code != row.code else []),
            *(["other words"] if row.words not in answer.output else []),
            *(["not one line"] if row.code and len(talk) != 1 else []),
            *(["traceback"] if "Traceback" in answer.output else []),
            *(["memory"] if extra > 2 * min(size, 1000) + 32 else []),
            *(["time"] if answer.seconds > usual[kind].seconds + 5 else []),
        ]
        rows.append({
            "file": row.file[:40], "command": row.command, "code": answer.code,
            "answer": (talk or [""])[0][7:200], "extra_mb": round(extra, 1),
            "seconds": round(answer.seconds, 2), "wrong": wrong,
        })  # fmt: skip
        print(f"{'; '.join(wrong) or 'ok':<8} {rows[-1]}", file=sys.stderr, flush=True)
    print(json.dumps({
        "files": len(rows),
        "as_specified": sum(not row["wrong"] for row in rows),
        "most_extra_mb": max(row["extra_mb"] for row in rows),
        "longest_s": max(row["seconds"] for row in rows),
        "usual": {
            k: {"mb": round(a.megabytes, 1), "s": round(a.seconds, 2)} for k, a in usual.items()
        },
        "rows": rows,
    }, indent=1))  # fmt: skip
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
