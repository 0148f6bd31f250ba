"""An index of texts: their embeddings, the texts themselves, and which model made them.

One safetensors file. Tensors: `embeddings` (N, d_model) F32 or F16, rows of length one; `text`
U8, the texts in UTF-8 one after another; `ends` (N,) I64, where each ends; `file` (N,) I32 and
`line` (N,) I64, where each comes from. Metadata, all of it text: `format`, `model_sha256`,
`model`, `pool`, `files` (a JSON list of names).
"""

import json
import os
import re
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from calmgrad.formats.files import Source, open_source, write_atomic
from calmgrad.ops.pool import POOLS

FORMAT = "calmgrad index 1"
MAX_HEADER = 1 << 24  # bytes
DTYPES = {"F32": "float32", "F16": "float16", "U8": "uint8", "I32": "int32", "I64": "int64"}
TENSORS = {
    "embeddings": ("F32", "F16"),
    "text": ("U8",),
    "ends": ("I64",),
    "file": ("I32",),
    "line": ("I64",),
}


@dataclass(frozen=True, slots=True)
class Contents:
    """What an index file holds.

    Attributes:
        embeddings: (N, d_model) float32 or float16.
        text: the texts in UTF-8, one after another.
        ends: (N,) int64, where each ends in `text`.
        file: (N,) int32, which of `files` each is from; line: (N,) int64, where it begins there.
        files: names.
        model_sha256: of what decides the model's embeddings, in hex.
        model: where its file is, seen from the index.
        pool: "mean" or "last".
    """

    embeddings: NDArray[Any]
    text: bytes
    ends: NDArray[np.int64]
    file: NDArray[np.int32]
    line: NDArray[np.int64]
    files: list[str]
    model_sha256: str
    model: str
    pool: str


def write(path: str | os.PathLike[str], contents: Contents) -> None:
    """Write an index, whole or not at all.

    Raises:
        DiskError: it cannot be written; what was there stays.
    """
    from safetensors.numpy import save

    tensors = {name: getattr(contents, name) for name in TENSORS if name != "text"}
    tensors["text"] = np.frombuffer(contents.text, np.uint8)
    metadata = {"format": FORMAT, "files": json.dumps(contents.files)}
    metadata |= {name: getattr(contents, name) for name in ("model_sha256", "model", "pool")}
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
        except (safetensors.SafetensorError, msgspec.MsgspecError, RecursionError) as error:
            raise source.error(f"is no index of calmgrad: {error}") from error
        metadata = header.get("__metadata__") or {}
        if metadata.get("format") != FORMAT:
            raise source.error(f"is no index that this version reads: expected {FORMAT!r}")
        if set(parts) != set(TENSORS):
            raise source.error(f"is damaged: expected the tensors {', '.join(TENSORS)}")
        return _checked(source, {k: _array(source, k, v) for k, v in parts.items()}, metadata)


def _array(source: Source, name: str, part: dict[str, Any]) -> NDArray[Any]:
    dtype, shape = part["dtype"], part["shape"]
    wanted = 2 if name == "embeddings" else 1
    if dtype not in TENSORS[name] or len(shape) != wanted:
        raise source.error(
            f"is damaged: {name} is {dtype} {shape}, expected"
            f" {' or '.join(TENSORS[name])} in {wanted} dimensions"
        )
    return np.frombuffer(part["data"], DTYPES[dtype]).reshape(shape)


def _checked(source: Source, arrays: dict[str, NDArray[Any]], metadata: dict[str, str]) -> Contents:
    embeddings, ends = arrays["embeddings"], arrays["ends"]
    count = len(embeddings)
    try:
        files = msgspec.json.decode(metadata.get("files", ""), type=list[str])
    except msgspec.MsgspecError:
        files = []
    texts_fit = ends.size and ends[0] >= 0 and ends[-1] == arrays["text"].size
    holds = {
        "embeddings: expected one text or more": count > 0 and embeddings.shape[1] > 0,
        "ends, file, line: expected one for each embedding": all(
            arrays[name].size == count for name in ("ends", "file", "line")
        ),
        "ends: expected the ends of the texts, in order": texts_fit and (np.diff(ends) >= 0).all(),
        "file: expected numbers of names in files": len(files) > 0
        and arrays["file"].min(initial=0) >= 0
        and arrays["file"].max(initial=0) < len(files),
        "embeddings: expected finite numbers": np.isfinite(embeddings).all(),
        "model_sha256: expected 64 hexadecimal digits": re.fullmatch(
            "[0-9a-f]{64}", metadata.get("model_sha256", "")
        ),
        f"pool: expected {' or '.join(POOLS)}": metadata.get("pool") in POOLS,
        "model: expected a name": metadata.get("model"),
    }
    for what, right in holds.items():
        if not right:
            raise source.error(f"is damaged: {what}")
    return Contents(
        embeddings, arrays["text"].tobytes(), ends, arrays["file"], arrays["line"], files,
        metadata["model_sha256"], metadata["model"], metadata["pool"],
    )  # fmt: skip
