"""Files that are almost right: small good ones, and changes that know where a format is weak.

A change that breaks every file in the same place would test one check only. So there are changes
of single bytes and fields, of lengths and sections, and ones that keep the rest consistent.
"""

import random
import struct
from collections.abc import Callable, Sequence

import numpy as np

from calmgrad.config import ModelConfig
from calmgrad.formats import ctds, cwgt
from calmgrad.tokenizer import ATN, BOS, EOS

Change = Callable[[random.Random, bytearray], None]

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 15, 16, 127, 128, 255, 319, 320, 4095, 4096, 65535,
           2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)  # fmt: skip
WIDTHS = {"B": 1, "H": 2, "I": 4}


def put(data: bytearray, offset: int, code: str, value: int) -> None:
    """Write a little-endian number where it stands, as much of it as the file has room for."""
    raw = struct.pack("<" + code, value % (1 << 8 * WIDTHS[code]))
    data[offset : offset + len(raw)] = raw[: max(0, len(data) - offset)]


# --- changes of any file --------------------------------------------------------------------------


def flip_bits(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut_off(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data) + 1) :]


def append(rng: random.Random, data: bytearray) -> None:
    data += rng.choice((b"\0", bytes(4), b"CTDS", b"\xff" * 64, rng.randbytes(7)))


def take_out(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.choice((1, 2, 4, 16, 100))]


def put_in(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice((bytes(2), bytes(4), b"\xff\xff", rng.randbytes(rng.choice((1, 9)))))


def repeat(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[at : at + rng.choice((2, 4, 14, 48))]


def exchange(rng: random.Random, data: bytearray) -> None:
    size = rng.choice((2, 4, 8))
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    if a + size <= b and b + size <= len(data):
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


ANY: tuple[Change, ...] = (flip_bits, cut_off, append, take_out, put_in, repeat, exchange)


def splice(rng: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    """The rest of another good file from some byte on."""
    other = rng.choice(others)
    at = rng.randrange(min(len(data), len(other)) + 1)
    data[at:] = other[at:]


class Mutator:
    """Makes bad files of one format out of good ones.

    Args:
        seeds: good files.
        own: changes that know the format.
    """

    def __init__(self, seeds: Sequence[bytes], own: Sequence[Change]) -> None:
        self.seeds, self.own = seeds, own

    def __call__(self, rng: random.Random) -> bytes:
        data = bytearray(rng.choice(self.seeds))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            what = rng.random()
            if what < 0.7:
                rng.choice(self.own)(rng, data)
            elif what < 0.95:
                rng.choice(ANY)(rng, data)
            else:
                splice(rng, data, self.seeds)
        return bytes(data)


# --- CTDS -----------------------------------------------------------------------------------------

_CTDS_FIELDS = ((0, "I"), (4, "I"), (8, "I"), (12, "H"))


def _ctds_field(rng: random.Random, data: bytearray) -> None:
    put(data, *rng.choice(_CTDS_FIELDS), rng.choice(NUMBERS))


def _ctds_near(rng: random.Random, data: bytearray) -> None:
    """Off by a little: the count, or the longest length."""
    offset, code = rng.choice(((8, "I"), (12, "H")))
    if len(data) >= 14:
        (value,) = struct.unpack_from("<" + code, data, offset)
        put(data, offset, code, value + rng.choice((-2, -1, 1, 2)))


def _ctds_entry(rng: random.Random, data: bytearray) -> None:
    """A length, a position or a token."""
    if len(data) > 16:
        at = 14 + 2 * rng.randrange((len(data) - 14) // 2)
        put(data, at, "H", rng.choice(NUMBERS))


def _ctds_vocabulary(rng: random.Random, data: bytearray) -> None:
    put(data, 4, "I", rng.choice((0, 1, 7, 2**32 - 1)))


def _ctds_rows(rng: random.Random, data: bytearray) -> None:
    """Other sequences, with a header that fits them but for one rule, or no rule at all."""
    lengths = [rng.choice((1, 2, 3, 9)) for _ in range(rng.randrange(1, 6))]
    positions = [rng.randrange(n + (rng.random() < 0.05)) for n in lengths]
    tokens = [rng.randrange(320 + (rng.random() < 0.02)) for _ in range(sum(lengths))]
    if rng.random() < 0.3:
        lengths[rng.randrange(len(lengths))] += rng.choice((-1, 1))
    longest = max(lengths) + rng.choice((0, 0, 0, 0, 1))
    numbers = [*lengths, *positions, *tokens]
    header = struct.pack("<4sIIH", b"CTDS", 0, len(lengths), longest)
    data[:] = header + struct.pack(f"<{len(numbers)}H", *numbers)


def ctds_mutator() -> Mutator:
    """Bad data sets."""
    rows = [[BOS, *b"ls", EOS], [7], [BOS, *b"~/src", ATN, *b"git add -A", EOS], [319] * 40]
    files = []
    for some in (rows[:1], rows[1:2], rows):
        packed = ctds.pack(some, [row.index(ATN) if ATN in row else 0 for row in some])
        files.append(b"".join(ctds.to_bytes(packed)))
    own = (_ctds_field, _ctds_near, _ctds_entry, _ctds_entry, _ctds_vocabulary, _ctds_rows)
    return Mutator(files, own)


# --- CWGT -----------------------------------------------------------------------------------------

_CWGT_FIELDS = (
    (0, "I"), (4, "H"), (6, "H"), (8, "H"), (10, "H"), (12, "B"), (13, "B"), (14, "B"), (15, "B"),
    (16, "H"), (18, "I"), (22, "H"), (24, "H"), (26, "H"), (28, "H"), (30, "H"), (32, "B"),
    (33, "B"), (34, "I"), (38, "B"), (39, "B"), (47, "B"),
)  # fmt: skip
_SIZES = ((10, "H"), (12, "B"), (13, "B"), (14, "B"), (15, "B"), (33, "B"), (38, "B"))
_TEXTS = (
    b"", b"\n\n\n", b"shell\nBOS;ATN\n|\n", b"shell\n\n", b"a\nb\nc\nd\n", b"\xff\xfe\n\n\n",
    b"a\xc3\n\n\n", b"\xed\xa0\x80\n\n\n", b"\0\n\0\n\0\n", b"no newline", b"\n\n\n\n\n",
    b"\x1b[31mred\n\x07\n\n", "π\nλ\nö\n".encode(), b"x" * 4094 + b"\n\n\n",
    b"x" * 4093 + b"\n\n\n", b"{" * 200 + b"\n\n\n",
)  # fmt: skip


def _cwgt_field(rng: random.Random, data: bytearray) -> None:
    put(data, *rng.choice(_CWGT_FIELDS), rng.choice(NUMBERS))


def _cwgt_consistent(rng: random.Random, data: bytearray) -> None:
    """Another size with the weight count it needs; and, some of the time, its weights."""
    if len(data) < 48:
        return
    put(data, *rng.choice(_SIZES), rng.choice((0, 1, 2, 3, 4, 255)))
    d, layers, ffn, expand, n = struct.unpack_from("<HBBBB", data, 10)
    taps, rank = data[33], data[38]
    try:
        config = ModelConfig(d, layers, ffn, expand, n, taps, rank)
    except ValueError:
        return
    put(data, 18, "I", config.param_count)
    if config.param_count < 3000 and rng.random() < 0.7:
        (flags,) = struct.unpack_from("<H", data, 6)
        (meta,) = struct.unpack_from("<I", data, 34)
        copies = 3 if flags & 2 else 1
        del data[48 + min(meta, 4096) :]
        data += bytes(4 * copies * config.param_count)


def _cwgt_metadata(rng: random.Random, data: bytearray) -> None:
    """Other texts, with the size they have; or one a little off."""
    if len(data) < 48:
        return
    (size,) = struct.unpack_from("<I", data, 34)
    text = rng.choice(_TEXTS)
    data[48 : 48 + min(size, 4200)] = text
    put(data, 34, "I", len(text) + rng.choice((0, 0, 0, 0, -1, 1)))


def _cwgt_flags(rng: random.Random, data: bytearray) -> None:
    put(data, 6, "H", rng.choice((0, 1, 2, 3, 4, 5, 7, 65535)))


def _cwgt_weight(rng: random.Random, data: bytearray) -> None:
    """NaN, infinity, the largest and the smallest number, somewhere behind the header."""
    if len(data) >= 52:
        at = len(data) - 4 * rng.randrange(1, (len(data) - 48) // 4 + 1)
        put(data, at, "I", rng.choice((0x7FC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 1)))


def cwgt_mutator() -> Mutator:
    """Bad models."""
    config = ModelConfig(1, 1, 1, 1, 1, 1, 1)
    weights = np.linspace(-1, 1, config.param_count, dtype=np.float32)
    texts = cwgt.Metadata("shell", "BOS;ATN;CMD:input", "| ;")
    models = [
        cwgt.Weights(config, weights),
        cwgt.Weights(config, weights, metadata=texts, sampler=cwgt.SamplerDefaults(0.6, 5)),
        cwgt.Weights(config, weights, weights**2, weights.copy(), texts),
    ]
    files = [b"".join(bytes(chunk) for chunk in cwgt.to_bytes(model)) for model in models]
    own = (_cwgt_field, _cwgt_field, _cwgt_consistent, _cwgt_metadata, _cwgt_flags, _cwgt_weight)
    return Mutator(files, own)


# --- text -----------------------------------------------------------------------------------------

_VALUES = (
    "0", "-1", "1e-3", "1e999", "-0.0", "nan", ".nan", "inf", "-inf", "true", "yes", "~", "null",
    '""', "''", '"a"', '"\\u0000"', "[]", "[[[[]]]]", "{}", "{a = 1}", "{a: 1}", "9" * 400,
    "9" * 5000, "0x" + "f" * 4000, "0o7", "1_000", "1__0", "12:30:45", "2024-02-30", "1979-05-27",
    "1979-05-27T07:32:00Z", "*a", "&a 1", "!!python/object:os.system x", "!!binary aGk=", "|",
    "<<", "? a", "- 1", '"""', "'''", "\x1b[31m", "\u2028", "\ud7ff", "\U0001d54f", "[" * 3000,
    "{a: " * 300, "{a=" * 300, "@", "`", "%TAG", "# x", "x" * 5000,
)  # fmt: skip
_LINES = (
    "", "---", "...", "%YAML 9.9", "[continual]", "[model]", "[[model]]", "[a.b.c]", "=", ":", "-",
    "? :", "<<: *a", "<<: {lr: 1}", "a: &a [*a]", "lr = 1 = 2", "'lr' = 1", "lr.x = 1", "\t: 1",
    "continual: 3", "continual: {}", "training:", "model: [1]", "a." * 500 + "a = 1",
    " " * 300 + "a: 1", "- " * 200, "1: 2", "null: 1", "true: 1", "\ufeff", "\x00", "\x85", "\x7f",
)  # fmt: skip


def _text_change(rng: random.Random, data: bytearray) -> None:
    """A line that is changed, doubled, moved or made up."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    at = rng.randrange(len(lines))
    what = rng.randrange(7)
    if what < 3:
        for mark in ("=", ":"):
            key, found, _ = lines[at].partition(mark)
            if found:
                lines[at] = f"{key}{found} {rng.choice(_VALUES)}"
                break
    elif what == 3:
        lines.insert(at, rng.choice(_LINES))
    elif what == 4:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif what == 5:
        lines[at] = " " * rng.randrange(1, 9) + lines[at]
    else:
        lines[at] = rng.choice(_VALUES).join(lines[at].split(" ", 1))
    data[:] = "\n".join(lines).encode("utf-8", "surrogateescape")


def _text_bytes(rng: random.Random, data: bytearray) -> None:
    """Bytes that no text has, or that mean something to a parser."""
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(
        (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\0", b"\r", b"\r\n", b"\t", b'"', b"'", b"[", b"{",
         b"}", b"]", b",", b":", b"=", b"#", b"&a ", b"*a", b"!", b"\\", b"|", b">", b"%",
         b"\x1b[2J")
    )  # fmt: skip


_TOML = b"""model = "new"
size = "nano"
dataset = "train.ctds"
lr = 0.001
epochs = 3
batch_size = 16
shuffle = true
report_to = ["tensorboard"]
[continual]
method = "online_ewc"
lambda = 10.0
fisher_batches = 4
"""
_YAML = b"""model:
  d_model: 96
  n_layers: 5
training:
  epochs: 20
  learning_rate: 1e-3
  shuffle: true
continual:
  method: online_ewc
  lambda: 10
  decay: 0.99
"""
_METRICS = b"""{"step": 1, "epoch": 1, "loss": 5.5, "lr": 0.001, "grad_norm": 2.0}
{"step": 2, "epoch": 1, "loss": 4.5, "lr": 0.001, "grad_norm": 1.0}
{"step": 2, "epoch": 1, "val_loss": 4.4, "val_bits_per_byte": 6.1}
"""


def text_mutator(good: bytes) -> Mutator:
    """Bad texts made of a good one."""
    own = (_text_change, _text_change, _text_change, _text_bytes)
    return Mutator([good, good.replace(b"\n", b"\r\n")], own)


def toml_mutator() -> Mutator:
    """Bad TOML configurations."""
    return text_mutator(_TOML)


def yaml_mutator() -> Mutator:
    """Bad YAML configurations."""
    return text_mutator(_YAML)


def metrics_mutator() -> Mutator:
    """Bad metrics.jsonl files."""
    return text_mutator(_METRICS)
