"""An index of texts: their embeddings, the texts themselves, and which model made them.

One safetensors file. Tensors: `embeddings` (N, d_model) F32 or F16, rows of length one; `text`
U8, the texts in UTF-8 one after another; `ends` (N,) I64, where each ends; `file` (N,) I32 and
`line` (N,) I64, where each comes from. Metadata: `about`, which is `About` in JSON.
"""

import hashlib
import os
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from calmgrad.formats.files import Source, open_source, write_atomic

FORMAT = 1
MAX_HEADER = 1 << 24  # bytes
DTYPES = {"F32": "float32", "F16": "float16", "U8": "uint8", "I32": "int32", "I64": "int64"}
TENSORS = {
    "embeddings": ("F32", "F16"),
    "text": ("U8",),
    "ends": ("I64",),
    "file": ("I32",),
    "line": ("I64",),
}


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an index is made of.

    Attributes:
        format: 1.
        model_sha256: of what decides the model's embeddings, in hex.
        model: where its file is, seen from the index.
        pool: "mean" or "last".
        files: names.
        sha256: of all tensors, as `write` makes it.
    """

    format: int
    model_sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    model: Annotated[str, Meta(min_length=1)]
    pool: Literal["mean", "last"]
    files: Annotated[list[str], Meta(min_length=1)]
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """What an index file holds.

    Attributes:
        embeddings: (N, d_model) float32 or float16.
        text: the texts in UTF-8, one after another.
        ends: (N,) int64, where each ends in `text`.
        file: (N,) int32, which of the files each is from.
        line: (N,) int64, where it begins there, from 1.
        about: the rest.
    """

    embeddings: NDArray[Any]
    text: bytes
    ends: NDArray[np.int64]
    file: NDArray[np.int32]
    line: NDArray[np.int64]
    about: About


def write(path: str | os.PathLike[str], contents: Contents) -> None:
    """Write an index, whole or not at all.

    Raises:
        DiskError: it cannot be written; what was there stays.
    """
    from safetensors.numpy import save

    tensors = {name: getattr(contents, name) for name in TENSORS if name != "text"}
    tensors["text"] = np.frombuffer(contents.text, np.uint8)
    about = msgspec.structs.replace(contents.about, sha256=_sum(tensors))
    # One key: safetensors writes several in any order.
    metadata = {"about": msgspec.json.encode(about).decode()}
    write_atomic(path, [save(tensors, metadata)])


def read(path: str | os.PathLike[str]) -> Contents:
    """Read an index; every part of it is checked.

    Raises:
        FileError: it is missing, or is no whole index.
    """
    import safetensors

    deserialize: Any = safetensors.deserialize
    with open_source(path) as source:
        content = source.read(source.size)
        size = int.from_bytes(content[:8], "little")
        if not 2 <= size <= min(MAX_HEADER, len(content) - 8):
            raise source.error("is no index of calmgrad: expected a safetensors file")
        try:
            parts = dict(deserialize(content))
            header = msgspec.json.decode(content[8 : 8 + size])
            about = msgspec.json.decode((header.get("__metadata__") or {}).get("about", ""))
        except (safetensors.SafetensorError, msgspec.MsgspecError, RecursionError) as error:
            raise source.error(f"is no index of calmgrad: {error}") from error
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise source.error(f"is no index that this version reads: expected format {FORMAT}")
        try:
            checked = msgspec.convert(about, About)
        except msgspec.ValidationError as error:
            raise source.error(f"is damaged: {error}") from error
        if set(parts) != set(TENSORS):
            raise source.error(f"is damaged: expected the tensors {', '.join(TENSORS)}")
        arrays = {name: _array(source, name, part) for name, part in parts.items()}
        return _checked(source, arrays, checked)


def _sum(arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in TENSORS:
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _array(source: Source, name: str, part: dict[str, Any]) -> NDArray[Any]:
    dtype, shape = part["dtype"], part["shape"]
    wanted = 2 if name == "embeddings" else 1
    if dtype not in TENSORS[name] or len(shape) != wanted:
        raise source.error(
            f"is damaged: {name} is {dtype} {shape}, expected"
            f" {' or '.join(TENSORS[name])} in {wanted} dimensions"
        )
    return np.frombuffer(part["data"], DTYPES[dtype]).reshape(shape)


def _checked(source: Source, arrays: dict[str, NDArray[Any]], about: About) -> Contents:
    embeddings, ends, file = arrays["embeddings"], arrays["ends"], arrays["file"]
    one_each = all(arrays[name].size == len(embeddings) for name in ("ends", "file", "line"))
    if not embeddings.size or not one_each:
        raise source.error("is damaged: expected a text or more, and an embedding for each")
    if ends[0] < 0 or (np.diff(ends) < 0).any() or ends[-1] != arrays["text"].size:
        raise source.error("is damaged: expected the ends of the texts in order")
    if file.min() < 0 or file.max() >= len(about.files):
        raise source.error(f"is damaged: expected file numbers from 0 to {len(about.files) - 1}")
    if not np.isfinite(embeddings).all():
        raise source.error("is damaged: expected finite numbers in embeddings")
    if _sum(arrays) != about.sha256:
        raise source.error("is damaged: its SHA-256 is not that of its contents")
    return Contents(embeddings, arrays["text"].tobytes(), ends, file, arrays["line"], about)
