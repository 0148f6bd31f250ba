"""Dumps: named arrays of one pass, in a raw layout that any language writes, or as .npz.

The raw layout (docs/dumps.md) is lines of text, each followed by the bytes it announces::

    calmdump 1
    blocks.0.ln1 f32 12 64          then 12 x 64 x 4 bytes, rows first, little-endian
    loss f32                        then 4 bytes: no dimension, one number
    settings json 25                then 25 bytes of JSON
    end

Files come from programs that are being debugged: everything in them is checked before it is used.
"""

import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calmgrad.errors import FileError
from calmgrad.formats.files import AnyPath, Chunk, Source, open_source, write_atomic

MAGIC = b"calmdump 1\n"
END = b"end\n"
SETTINGS = "settings"
TYPES = {"f32": "f4", "f64": "f8", "f16": "f2", "i32": "i4", "i64": "i8", "u16": "u2", "u8": "u1"}
LINE = 512  # bytes of a line at most
SETTINGS_LIMIT = 1 << 16  # bytes of JSON
MAX_AXES = 4
MAX_RECORDS = 100_000
UNPACKED = 1 << 30  # bytes that any .npz may hold; above, at most PACKED times its own
PACKED = 20

_NAME = re.compile(r"[A-Za-z0-9_./\[\]:-]{1,200}")
_TYPE_OF = {np.dtype(code): name for name, code in TYPES.items()}

Setting = str | int | float | bool | None


@dataclass(slots=True)
class Dump:
    """Named arrays, and what they were made with.

    Attributes:
        arrays: name -> array; docs/dumps.md lists the names that parity knows.
        settings: of the run: reduction, lr, …
    """

    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    settings: dict[str, Setting] = field(default_factory=dict)


def is_dump(source: Source) -> bool:
    """Whether a file begins as a dump of either kind; it is read from its beginning again."""
    head = source.read(min(len(MAGIC), source.size))
    source.file.seek(0)
    return head.startswith((b"calmdump", b"PK"))


def read(path: AnyPath) -> Dump:
    """Read a dump of either kind.

    Raises:
        FileError: it is missing, of another kind, or breaks a rule of docs/dumps.md.
        OutOfMemoryError: it does not fit.
    """
    with open_source(path) as source:
        head = source.read(min(len(MAGIC), source.size))
        if head == MAGIC:
            return _read_raw(source)
        if head.startswith(b"PK"):
            source.file.seek(0)
            return _read_npz(source)
        raise source.error(f"begins with {head!r}: expected {MAGIC!r} or a .npz file")


def write(path: AnyPath, dump: Dump, raw: bool = False) -> None:
    """Write a dump, whole or not at all: as .npz, or in the raw layout.

    Raises:
        ValueError: a name or an array that the format does not hold.
        DiskError: it cannot be written; what was there stays.
    """
    for name, array in dump.arrays.items():
        if not _NAME.fullmatch(name) or name == SETTINGS:
            raise ValueError(f"dump: {name!r}: expected a name of letters, digits and ._/[]:-")
        if np.asarray(array).dtype not in _TYPE_OF or np.ndim(array) > MAX_AXES:
            raise ValueError(f"dump: {name}: {array.dtype} {array.shape}: expected {_types()}")
    if raw:
        write_atomic(path, _raw(dump), sum(array.nbytes for array in dump.arrays.values()))
    else:
        write_atomic(path, [_npz(dump)])


# --- raw ------------------------------------------------------------------------------------------


def _raw(dump: Dump) -> Iterator[Chunk]:
    yield MAGIC
    if dump.settings:
        text = json.dumps(dump.settings).encode()
        yield f"{SETTINGS} json {len(text)}\n".encode() + text
    for name, array in dump.arrays.items():
        stored = np.asarray(array)
        shape = "".join(f" {n}" for n in stored.shape)
        yield f"{name} {_TYPE_OF[stored.dtype]}{shape}\n".encode()
        stored = np.ascontiguousarray(stored, stored.dtype.newbyteorder("<"))
        yield stored.reshape(-1).view(np.uint8).data
    yield END


def _read_raw(source: Source) -> Dump:
    dump = Dump()
    while (line := _line(source)) != END:
        start = source.file.tell()
        words = line[:-1].decode("ascii", "replace").split(" ")
        name = words[0]
        where = f"byte {start - len(line)}"
        if len(words) < 2 or not _NAME.fullmatch(name):
            raise source.error(f"{where}: {line[:40]!r}: expected NAME TYPE DIMENSIONS")
        if name in dump.arrays or (name == SETTINGS and dump.settings):
            raise source.error(f"{where}: {name} a second time")
        if len(dump.arrays) >= MAX_RECORDS:
            raise source.error(f"{where}: expected at most {MAX_RECORDS} arrays")
        sizes = [int(w) if w.isdecimal() and len(w) < 13 else -1 for w in words[2:]]
        if min(sizes, default=0) < 0 or len(sizes) > MAX_AXES:
            raise source.error(f"{where}: {name}: dimensions {words[2:]}: expected whole numbers")
        if name == SETTINGS:
            if words[1] != "json" or len(sizes) != 1 or sizes[0] > SETTINGS_LIMIT:
                raise source.error(f"{where}: expected settings json, up to {SETTINGS_LIMIT} bytes")
            dump.settings = _settings(source, source.read(sizes[0]))
        elif words[1] not in TYPES:
            raise source.error(f"{where}: {name}: type {words[1]!r}: expected {_types()}")
        else:
            try:
                flat = source.read_array(TYPES[words[1]], math.prod(sizes))
            except FileError as error:
                raise FileError(f"{error} (the array {name})") from None
            dump.arrays[name] = flat.reshape(sizes)
    if source.file.tell() != source.size:
        raise source.error(f"{source.size - source.file.tell()} bytes after the line 'end'")
    return dump


def _line(source: Source) -> bytes:
    """The next line, its newline included."""
    start = source.file.tell()
    piece = source.read(min(LINE, source.size - start))
    if not piece:
        raise source.error(f"ends at byte {start}: expected another array or the line 'end'")
    at = piece.find(b"\n")
    if at < 0:
        raise source.error(
            f"byte {start}: {piece[:24]!r}: expected a line NAME TYPE DIMENSIONS;"
            " the array before may have more bytes than its line says"
        )
    source.file.seek(start + at + 1)
    return piece[: at + 1]


# --- npz ------------------------------------------------------------------------------------------


def _npz(dump: Dump) -> memoryview:
    buffer = io.BytesIO()
    arrays: Mapping[str, Any] = dict(dump.arrays)
    if dump.settings:
        arrays = {SETTINGS: np.array(json.dumps(dump.settings)), **arrays}
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getbuffer()


def _read_npz(source: Source) -> Dump:
    dump = Dump()
    try:
        with zipfile.ZipFile(source.file) as archive:
            held = sum(info.file_size for info in archive.infolist())
            if held > max(UNPACKED, PACKED * source.size):
                raise source.error(f"{held:,} bytes packed in {source.size:,}: too many")
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name in dump.arrays or not _NAME.fullmatch(name):
                    raise source.error(f"{name[:60]!r}: expected names of docs/dumps.md, once each")
                array = _member(source, archive, info, name)
                if name == SETTINGS:
                    dump.settings = _settings(source, str(array[()]).encode())
                else:
                    dump.arrays[name] = array
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise source.error(f"is no .npz file: {str(error)[:100]}") from error
    except (ValueError, SyntaxError, TypeError, KeyError, UnicodeError, OSError) as error:
        raise source.error(f"holds no array that can be read: {str(error)[:100]!r}") from error
    return dump


def _member(
    source: Source, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str
) -> NDArray[Any]:
    """One array, its size held against the member's before memory is taken for it."""
    if info.file_size > 1100 * max(info.compress_size, 1):  # deflate packs no tighter
        raise source.error(f"{name}: {info.file_size} bytes out of {info.compress_size}")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise source.error(f"{name}: npy version {version}: expected 1.0 or 2.0")
        shape, columns_first, dtype = read_header(file)
        text = name == SETTINGS and dtype.kind == "U" and shape == ()
        if not text and dtype.newbyteorder("=") not in _TYPE_OF:
            raise source.error(f"{name}: type {dtype}: expected {_types()}")
        count = math.prod(shape)
        if dtype.itemsize * count > SETTINGS_LIMIT * 4 and text:
            raise source.error(f"{name}: expected at most {SETTINGS_LIMIT} bytes")
        data = file.read(info.file_size)
    if min(shape, default=0) < 0 or len(data) != count * dtype.itemsize:
        raise source.error(f"{name}: {len(data)} bytes: expected {dtype} {shape}")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if columns_first else "C")
    return np.array(array, dtype.newbyteorder("="))


def _settings(source: Source, text: bytes) -> dict[str, Setting]:
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise source.error(f"settings: {str(error)[:80]}: expected JSON") from error
    plain = (str, int, float, bool, type(None))
    if not isinstance(settings, dict) or not all(isinstance(v, plain) for v in settings.values()):
        raise source.error("settings: expected a JSON object of numbers and texts")
    return settings


def _types() -> str:
    return f"{', '.join(TYPES)} with at most {MAX_AXES} dimensions"
